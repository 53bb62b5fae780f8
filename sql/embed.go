// Package sql holds the database's side of the relay: migrations, which run once each and in order, and functions for
// writers, which are replaced whenever their text has changed. Only package migrate reads it.
package sql

import "embed"

// Files holds migrations/*.sql, in goose's format and forward only, and functions/*.sql, which may run any number of
// times.
//
//go:embed migrations/*.sql functions/*.sql
var Files embed.FS
