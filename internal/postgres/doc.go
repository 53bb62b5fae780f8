// Package postgres opens the relay's connections, with settings that no role, database or pooler changes.
package postgres
