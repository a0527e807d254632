// Package functions holds the SQL helper functions, one file each: the file's name is the function's.
package functions

import "embed"

// Postgres is sql/functions/postgres. In each file @app@ stands for the application's schema.
//
//go:embed postgres/*.sql
var Postgres embed.FS
