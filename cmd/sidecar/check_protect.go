package main

import (
	"context"
	"strings"

	"github.com/tiergate/tiergate/internal/sql"
)

// protections says which tables refuse new rows by themselves, and what gets past that.
func (k *checkup) protections(ctx context.Context, conn *sql.Session) {
	found, err := sql.Protections(ctx, conn)
	k.faults("protected tables", err)
	for _, p := range found {
		about := "protected " + p.Table
		call := "SELECT tiergate.unprotect('" + strings.ReplaceAll(p.Table, "'", "''") + "');"
		if len(p.Gates) == 0 {
			k.warn(about, call, "somebody dropped the policies that refuse: nothing is refused")
			continue
		}
		k.ok(about, "a new row needs %s", strings.Join(p.Gates, " and "))
		if p.Off {
			k.warn(about, "ALTER TABLE "+p.Table+" ENABLE ROW LEVEL SECURITY;", "somebody turned row security off: nothing is refused")
		}
		if p.Opened && len(p.Others) > 0 {
			k.warn(about, call+"\nthen ALTER TABLE "+p.Table+" ENABLE ROW LEVEL SECURITY; and protect again",
				"row security was off when it was protected: policy tiergate-all allows everything, and %s chooses nothing", strings.Join(p.Others, ", "))
		}
		if len(p.Exempt) > 0 {
			k.warn(about, "let the application write as another role; for owners: protect with force => true",
				"not checked is what is inserted by %s", strings.Join(p.Exempt, ", "))
		}
		for _, role := range p.Shut {
			k.warn(about, "GRANT EXECUTE ON FUNCTION tiergate.has_feature(text, text) TO "+sql.Quote(role)+";",
				"%s may insert, but may not run what the policy calls: each insert fails", role)
		}
		if len(p.Partitions) > 0 {
			k.warn(about, "REVOKE INSERT on the partitions: the whole is enough to write", "not checked is what is written directly to %s", strings.Join(p.Partitions, ", "))
		}
	}
}
