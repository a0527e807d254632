package cdc

import (
	"strings"
	"testing"

	"github.com/tiergate/tiergate/internal/dbserver"
	"github.com/tiergate/tiergate/internal/loops"
)

// expectGap resumes, and reads until the stream ends.
func (a *bapp) expectGap(at loops.Position, want string) {
	a.t.Helper()
	err := a.failure(at)
	if err == nil || loops.KindOf(err) != loops.Gap || !strings.Contains(err.Error(), want) {
		a.t.Errorf("kind %d: %v, want a gap and %q", loops.KindOf(err), err, want)
	}
}

// failure returns how a stream from a position ends, on its own, or after nothing comes any more: nil.
func (a *bapp) failure(at loops.Position) error {
	a.t.Helper()
	stream, err := a.source().Resume(a.t.Context(), at)
	if err != nil {
		return err
	}
	defer stream.Close()
	for {
		b, err := stream.Next(a.t.Context(), inAMinute())
		if err != nil {
			return err
		}
		for _, c := range b.Changes {
			if c.Use.Subject == "end" {
				return nil
			}
		}
	}
}

func editBinlog(t *testing.T, at loops.Position, f func(*binlogPosition)) loops.Position {
	t.Helper()
	p, err := decodeBinlogPosition(at)
	if err != nil {
		t.Fatal(err)
	}
	f(&p)
	return p.encode()
}

// TestBinlogGapsAtStart resumes from positions that the server does not know.
func TestBinlogGapsAtStart(t *testing.T) {
	bothWays(t, func(t *testing.T, a *bapp) {
		start := a.begin()
		for name, c := range map[string]struct {
			edit func(*binlogPosition)
			want string
		}{
			"another server":     {func(p *binlogPosition) { p.Server = "4711" }, "another server"},
			"another flavor":     {func(p *binlogPosition) { p.Flavor = flavorMariaDB; p.ByGTID = false; p.Server += "x" }, "another server"},
			"a file to come":     {func(p *binlogPosition) { p.File = strings.ReplaceAll(p.File, ".00", ".99") }, "does not exist yet"},
			"a place to come":    {func(p *binlogPosition) { p.Offset += 1 << 30 }, "ends before"},
			"a file of old":      {func(p *binlogPosition) { p.Born = 1 }, "another file"},
			"half a transaction": {func(p *binlogPosition) { p.Tx, p.Rows = "another one", 1 }, "does not come again"},
		} {
			t.Run(name, func(t *testing.T) {
				a := &bapp{t: t, server: a.server, name: a.name, conn: a.conn}
				a.insertMany("end", 1)
				a.expectGap(editBinlog(t, start, c.edit), c.want)
			})
		}
		for _, at := range []loops.Position{"", "{", "{}", `{"system":"1","end":"0/0"}`} {
			a.expectGap(at, "position")
		}
	})
}

// TestBinlogGapsOfGTIDs resumes where GTIDs are missing, or are too many.
func TestBinlogGapsOfGTIDs(t *testing.T) {
	a := newBinlogApp(t, sharedBinlogServer(t, fullBinlog))
	a.insertMany("ann", 1)
	start := a.begin()
	a.insertMany("end", 1)
	a.expectGap(editBinlog(t, start, func(p *binlogPosition) {
		for from, to := range map[string]string{flavorMySQL: "00000000-0000-0000-0000-000000000001:1-7", flavorMariaDB: "77-1-7"} {
			if p.Flavor == from {
				p.gtids, _ = parseGTIDs(from, to)
			}
		}
	}), "the binlog was reset, or the server restored")
}

// breakable is a server of its own, for tests that reset or restart it.
func breakable(t *testing.T, o dbserver.MySQLOptions) *bapp {
	t.Helper()
	s := startBinlogServer(t, o)
	t.Cleanup(func() {
		s.db.Close()
		s.Stop()
	})
	return newBinlogApp(t, s)
}

// TestBinlogGapsOfHistory purges and resets the binlog.
func TestBinlogGapsOfHistory(t *testing.T) {
	for name, o := range map[string]dbserver.MySQLOptions{"full": fullBinlog, "shipped": shippedBinlog} {
		t.Run(name, func(t *testing.T) {
			a := breakable(t, o)
			start := a.begin()
			a.insertMany("ann", 1)
			_, later := a.reads(start, 1)
			a.exec(`FLUSH BINARY LOGS`)
			a.insertMany("bob", 1)
			a.exec(`FLUSH BINARY LOGS`)
			a.insertMany("end", 1)
			if err := a.failure(later); err != nil {
				t.Fatal(err)
			}
			place := a.begin()
			await(t, "the files to go, which the server keeps while a stream reads them", func() bool {
				a.exec(`PURGE BINARY LOGS TO '` + fileOf(t, place) + `'`)
				facts, err := a.source().config.Facts(t.Context())
				return err == nil && len(facts.Files) == 1
			})
			a.expectGap(start, "purged")

			reset := `RESET MASTER`
			if a.server.Flavor == dbserver.OracleMySQL {
				reset = `RESET BINARY LOGS AND GTIDS`
			}
			old := a.begin()
			a.insertMany("ann", 3)
			_, old = a.reads(old, 3)
			second := a.text(`SELECT UNIX_TIMESTAMP()`)
			await(t, "the clock to move", func() bool { return a.text(`SELECT UNIX_TIMESTAMP()`) != second })
			a.exec(reset)
			a.expectGap(old, "reset")
			for range 20 { // until names, offsets and GTIDs are as far as before, and farther
				a.insertMany("ann", 30)
				a.exec(`FLUSH BINARY LOGS`)
			}
			a.insertMany("end", 1)
			a.expectGap(old, "") // by file and offset the server may find it first
			fresh := a.begin()
			a.insertMany("ann", 1)
			got, _ := a.reads(fresh, 1)
			expect(t, got, "I ann 1")
		})
	}
}

func fileOf(t *testing.T, at loops.Position) (file string) {
	t.Helper()
	editBinlog(t, at, func(p *binlogPosition) { file = p.File })
	return file
}

// TestBinlogRestart resumes over a restart of the server, and by file and offset where it could by GTID.
func TestBinlogRestart(t *testing.T) {
	a := breakable(t, fullBinlog)
	start := a.begin()
	a.insertMany("ann", 1)
	if err := a.server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.conn = a.connect()
	a.insertMany("bob", 1)
	got, _ := a.reads(start, 2)
	expect(t, got, "I ann 1", "I bob 1")
	got, _ = a.reads(editBinlog(t, start, func(p *binlogPosition) { p.ByGTID, p.GTIDText, p.gtids = false, "", nil }), 2)
	expect(t, got, "I ann 1", "I bob 1")
}
