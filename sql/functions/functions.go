// Package functions holds the SQL helper functions, one file each: the file's name is the function's.
package functions

import "embed"

// Postgres is sql/functions/postgres. In each file @app@ stands for the application's schema.
//
//go:embed postgres/*.sql
var Postgres embed.FS

// MySQL is sql/functions/mysql, for MySQL and MariaDB. Each file is one CREATE statement, of tiergate_ and the file's name. @bin@ stands
// for character set and collation of all text, @now@ for the clock.
//
//go:embed mysql/*.sql
var MySQL embed.FS
