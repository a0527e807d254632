package sql

import (
	"context"
	"database/sql"
	"errors"
	"strings"

	"github.com/tiergate/tiergate/internal/loops"
)

func isMySQL(url string) bool { return strings.HasPrefix(url, "mysql://") }

func connectMySQL(context.Context, string, Purpose, func(string) (*sql.Conn, bool)) (*Session, error) {
	return nil, &loops.Fault{Step: "connect to the database", Err: errors.New("MySQL is not supported in this version"), Kind: loops.Permanent}
}
