package token

import (
	"strings"
	"testing"
)

func TestQueries_PrepareAgainstTheMigratedSchema(t *testing.T) {
	t.Parallel()
	files, err := queryFiles.ReadDir("queries")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := mustDatabase(t).Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	for _, f := range files {
		name := strings.TrimSuffix(f.Name(), ".sql")
		if _, err := conn.Conn().Prepare(t.Context(), name, query(name)); err != nil {
			t.Errorf("%s: %v", f.Name(), err)
		}
	}
}
