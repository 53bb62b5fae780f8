package migrate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/sql"
)

// replaceFunctions applies each file of functions whose text is not the one applied last, in the order of their names,
// and returns those names.
func replaceFunctions(ctx context.Context, tx pgx.Tx) ([]string, error) {
	names, hashes := known.functionColumns()
	rows, err := tx.Query(ctx, `
		SELECT want.name FROM unnest($1::text[], $2::text[]) AS want(name, hash)
		WHERE NOT EXISTS (SELECT FROM relay.schema_functions f WHERE f.name = want.name AND f.hash = want.hash)
		ORDER BY want.name`, names, hashes)
	if err != nil {
		return nil, fmt.Errorf("compare functions: %w", err)
	}
	changed, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("compare functions: %w", err)
	}
	for _, name := range changed {
		f := known.function(name)
		// The simple protocol takes a file of many statements.
		if err := tx.Conn().PgConn().Exec(ctx, f.text).Close(); err != nil {
			return nil, fmt.Errorf("apply functions/%s: %w", name, err)
		}
		_, err := tx.Exec(ctx, `
			INSERT INTO relay.schema_functions (name, hash) VALUES ($1, $2)
			ON CONFLICT (name) DO UPDATE SET hash = excluded.hash, applied_at = now()`, name, f.hash)
		if err != nil {
			return nil, fmt.Errorf("record functions/%s: %w", name, err)
		}
	}
	return changed, nil
}

type migration struct {
	version int64
	name    string
}

type function struct{ name, hash, text string }

// source is the embedded SQL, in the order in which it is applied.
type source struct {
	migrations []migration
	functions  []function
}

var known = mustRead(sql.Files)

// mustRead panics on what only a mistake in the build can bring about.
func mustRead(files fs.FS) source {
	s, err := read(files)
	if err != nil {
		panic(err)
	}
	return s
}

func read(files fs.FS) (source, error) {
	var s source
	migrations, err := fs.Glob(files, "migrations/*.sql")
	if err != nil {
		return s, fmt.Errorf("list migrations: %w", err)
	}
	for _, p := range migrations {
		number, _, _ := strings.Cut(path.Base(p), "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return s, fmt.Errorf("read number of %s: %w", p, err)
		}
		s.migrations = append(s.migrations, migration{version: version, name: path.Base(p)})
	}
	functions, err := fs.Glob(files, "functions/*.sql")
	if err != nil {
		return s, fmt.Errorf("list functions: %w", err)
	}
	for _, p := range functions {
		text, err := fs.ReadFile(files, p)
		if err != nil {
			return s, fmt.Errorf("read %s: %w", p, err)
		}
		sum := sha256.Sum256(text)
		s.functions = append(s.functions,
			function{name: path.Base(p), hash: hex.EncodeToString(sum[:]), text: string(text)})
	}
	return s, nil
}

// latest is the schema version of this binary.
func latest() int64 {
	var last int64
	for _, m := range known.migrations {
		last = max(last, m.version)
	}
	return last
}

// functionColumns returns names and hashes, in the same order, as two arrays for a query.
func (s source) functionColumns() (names, hashes []string) {
	for _, f := range s.functions {
		names, hashes = append(names, f.name), append(hashes, f.hash)
	}
	return names, hashes
}

func (s source) function(name string) function {
	for _, f := range s.functions {
		if f.name == name {
			return f
		}
	}
	return function{}
}
