package sql

import (
	"context"
	"errors"
	"fmt"

	"github.com/tiergate/tiergate/internal/loops"
)

// homeOf names where an installation lives: server, database and the address it is reached by. A
// dump has another server, a snapshot of the disk another address. Aurora, which refuses the question while
// its wal_level is not logical, is told by its address alone.
func homeOf(ctx context.Context, conn *Session) (string, error) {
	var system string
	if err := conn.QueryRow(ctx, conn.query("system")).Scan(&system); err != nil {
		return "", explain("identify the server", err)
	}
	return fmt.Sprintf("%s/%s/%s", system, conn.Database, conn.Host), nil
}

// CheckHome returns a fault where the outbox belongs to another installation: this is a copy, and
// people must not be mailed twice.
func CheckHome(ctx context.Context, conn *Session) (copied, err error) {
	home, err := homeOf(ctx, conn)
	if err != nil {
		return nil, err
	}
	var stored string
	if err := conn.QueryRow(ctx, `SELECT value FROM tiergate.meta WHERE "key" = 'home'`).Scan(&stored); err != nil {
		return nil, explain("read the installation", err)
	}
	if stored == home {
		return nil, nil
	}
	return &loops.Fault{Step: "send emails", Kind: loops.Permanent,
		Err:  errors.New("this database looks like a copy of another one, whose sidecar sends its emails"),
		Hint: "if this is the real one, moved: `sidecar emails adopt`"}, nil
}

// Adopt makes this database the installation's home.
func Adopt(ctx context.Context, conn *Session) error {
	home, err := homeOf(ctx, conn)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, `UPDATE tiergate.meta SET value = $1 WHERE "key" = 'home'`, home)
	return explain("adopt the outbox", err)
}
