package pgtest

import (
	"io/fs"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Prepare prepares every statement of a package's embedded queries, as sqlfile reads them, against a migrated database: a
// statement that no other test runs is checked all the same.
func Prepare(t testing.TB, pool *pgxpool.Pool, files fs.FS) {
	t.Helper()
	paths, err := fs.Glob(files, "queries/*.sql")
	if err != nil || len(paths) == 0 {
		t.Fatalf("%d statements, %v", len(paths), err)
	}
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	for _, path := range paths {
		sql, err := fs.ReadFile(files, path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Conn().Prepare(t.Context(), path, string(sql)); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}
