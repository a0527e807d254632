package dbserver

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestFetchedServersWork fetches into the user's cache, once. Where the program is missing, the error must say so.
func TestFetchedServersWork(t *testing.T) {
	for _, test := range []struct{ source, program, version string }{
		{"apt", "apt-get", ""},
		{"npm", "npm", "17"},
	} {
		t.Run(test.source, func(t *testing.T) {
			t.Setenv("TIERGATE_POSTGRES", "")
			t.Setenv("TIERGATE_POSTGRES_VERSION", "")
			t.Setenv("TIERGATE_FETCH", test.source)
			p, err := StartPostgres(t.Context(), Options{Version: test.version, Fast: true})
			if _, missing := exec.LookPath(test.program); missing != nil {
				if err == nil || !strings.Contains(err.Error(), test.program) || !strings.Contains(err.Error(), "→") {
					t.Fatalf("error = %v, want one that names %s and the way out", err, test.program)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(p.Stop)
			t.Logf("%s from %s", query(t, p, "", "SELECT version()"), p.bin)
			query(t, p, "", "SELECT slot_name::text FROM pg_create_logical_replication_slot('a', 'pgoutput')")
			query(t, p, "", "SELECT now()::timestamp AT TIME ZONE 'Europe/Berlin'")
		})
	}
}

func TestNothingSuitable(t *testing.T) {
	empty := t.TempDir()
	for name, test := range map[string]struct {
		env     map[string]string
		version string
		want    []string
	}{
		"unknown version":     {nil, "14", []string{`"14"`, "18, 17, 16, 15"}},
		"wrong folder":        {map[string]string{"TIERGATE_POSTGRES": empty}, "", []string{empty, "no such file", "unset it"}},
		"no way to fetch":     {map[string]string{"TIERGATE_POSTGRES": "", "TIERGATE_FETCH": "apt", "PATH": empty}, "", []string{"apt-get", "→ install PostgreSQL"}},
		"cache not writeable": {map[string]string{"TIERGATE_POSTGRES": "", "TIERGATE_FETCH": "npm", "TIERGATE_CACHE": "/dev/null/cache"}, "", []string{"lock the cache folder", "set TIERGATE_CACHE"}},
	} {
		t.Run(name, func(t *testing.T) {
			for key, value := range test.env {
				t.Setenv(key, value)
			}
			_, err := StartPostgres(t.Context(), Options{Version: test.version})
			for _, want := range test.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error = %v\nwant it to contain %q", err, want)
				}
			}
		})
	}
}

func TestUnpackIsAllOrNothing(t *testing.T) {
	f := &finder{cache: t.TempDir(), log: slog.New(slog.DiscardHandler)}
	broken := download{folder: "server", unpack: func(_ context.Context, into string) error {
		return errors.Join(os.WriteFile(filepath.Join(into, "half"), nil, 0o600), errors.New("cut off"))
	}}
	if err := f.unpack(t.Context(), broken); err == nil {
		t.Error("no error for a broken download")
	}
	if left, _ := filepath.Glob(f.cache + "/*"); left != nil {
		t.Errorf("a broken download left %v", left)
	}
	whole := download{folder: "server", unpack: func(_ context.Context, into string) error {
		return os.WriteFile(filepath.Join(into, "whole"), nil, 0o600)
	}}
	for range 2 { // the second replaces an unusable first
		if err := f.unpack(t.Context(), whole); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := filepath.Glob(f.cache + "/*/*"); len(left) != 1 || left[0] != f.cache+"/server/whole" {
		t.Errorf("the cache holds %v", left)
	}
}

func TestLockAdmitsOne(t *testing.T) {
	cache := filepath.Join(t.TempDir(), "cache")
	var inside atomic.Int32
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			unlock, err := lock(t.Context(), cache)
			if err != nil {
				t.Error(err)
				return
			}
			if n := inside.Add(1); n != 1 {
				t.Errorf("%d hold the lock", n)
			}
			runtime.Gosched() // the work that the lock guards
			inside.Add(-1)
			unlock()
		})
	}
	group.Wait()
	unlock, err := lock(t.Context(), cache)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lock(ctx, cache); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v while another holds the lock, want canceled", err)
	}
}

func TestRootsCacheIsOpenToTheServersUser(t *testing.T) {
	cache := t.TempDir()
	if err := os.Chmod(cache, 0o700|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	unlock, err := lock(t.Context(), cache)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	info, err := os.Stat(cache)
	if err != nil {
		t.Fatal(err)
	}
	want := os.ModeDir | os.ModeSticky | 0o700
	if os.Geteuid() == 0 {
		want |= 0o055
	}
	if info.Mode() != want {
		t.Errorf("mode = %v, want %v", info.Mode(), want)
	}
}

func TestUnpackEmbedded(t *testing.T) {
	links := `[{"source":"native/lib/libpq.so.5.17","target":"native/lib/libpq.so.5"}]`
	for name, test := range map[string]struct {
		extra string
		fails bool
	}{
		"good":     {extra: "package/scripts/hydrate-symlinks.js"},
		"escaping": {extra: "package/native/../../outside", fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			var archive bytes.Buffer
			zipped := gzip.NewWriter(&archive)
			files := tar.NewWriter(zipped)
			for _, f := range []struct {
				name, text string
				mode       int64
			}{
				{"package/native/bin/postgres", "elf", 0o755},
				{"package/native/lib/libpq.so.5.17", "library", 0o644},
				{"package/native/pg-symlinks.json", links, 0o644},
				{test.extra, "x", 0o644},
			} {
				files.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.text)), Typeflag: tar.TypeReg})
				files.Write([]byte(f.text))
			}
			files.Close()
			zipped.Close()
			dir := t.TempDir()
			root, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			if err := unpackEmbedded(&archive, root); (err != nil) != test.fails {
				t.Fatalf("error = %v, want one: %t", err, test.fails)
			}
			if test.fails {
				return
			}
			if err := linkLibraries(root); err != nil {
				t.Fatal(err)
			}
			if text, err := os.ReadFile(filepath.Join(dir, "native/lib/libpq.so.5")); string(text) != "library" {
				t.Errorf("the link gives %q, %v", text, err)
			}
			if info, err := os.Stat(filepath.Join(dir, "native/bin/postgres")); err != nil || info.Mode().Perm()&0o100 == 0 {
				t.Errorf("postgres cannot be run: %v, %v", info, err)
			}
			if _, err := os.Stat(filepath.Join(dir, "scripts")); err == nil {
				t.Error("the package's scripts were unpacked too")
			}
		})
	}
}

func TestLibraryNames(t *testing.T) {
	out := `postgresql-15
 |Depends: locales
  Depends: locales-all
  Depends: libc6
 |Depends: libsystemd0
  Depends: libelogind0
  PreDepends: libpq5
    libvirtual
  Depends: libllvm14
  Depends: <debconf-2.0>
    cdebconf
  Depends: zlib1g
  Recommends: libnss3
`
	want := []string{"libc6", "libsystemd0", "libelogind0", "libpq5", "zlib1g"}
	if diff := cmp.Diff(want, libraryNames(out)); diff != "" {
		t.Error(diff)
	}
}

func TestMajorOf(t *testing.T) {
	for answer, want := range map[string]int{
		"postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n": 15,
		"postgres (PostgreSQL) 17.10\n":                          17,
		"postgres (PostgreSQL) 19beta1\n":                        19,
		"postgres: command not found":                            0,
	} {
		if got, err := majorOf(answer); got != want || (err == nil) != (want > 0) {
			t.Errorf("majorOf(%q) = %d, %v; want %d", answer, got, err, want)
		}
	}
}
