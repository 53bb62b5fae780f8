package writers_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/migrate/migratetest"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m, pgtest.NoLeaks()) }

// open makes a database with the outbox and the table of the README.
func open(t *testing.T) (db *pgx.Conn, url string) {
	t.Helper()
	url = migratetest.NewDatabase(t)
	db, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close(context.Background()) })
	if _, err := db.Exec(t.Context(), `
		CREATE TABLE invoices (tenant_id text, id text, status text NOT NULL DEFAULT 'open', PRIMARY KEY (tenant_id, id));
		INSERT INTO invoices VALUES ('acme', 'inv_2001')`); err != nil {
		t.Fatal(err)
	}
	return db, url
}

// want fails unless the invoice has the status and the outbox holds n rows, each the event of the examples.
func want(t *testing.T, db *pgx.Conn, status string, n int) {
	t.Helper()
	var got string
	var events, right int
	err := db.QueryRow(t.Context(), `
		SELECT (SELECT status FROM invoices), count(*),
			count(*) FILTER (WHERE (tenant_id, aggregate_type, aggregate_id, event_type)
				= ('acme', 'payment', 'inv_2001', 'payment.received') AND payload::jsonb
				= '{"payment_id":"pay_1001","invoice_id":"inv_2001","amount":"1500.00","currency":"EUR"}')
		FROM outbox.events`).Scan(&got, &events, &right)
	if err != nil {
		t.Fatal(err)
	}
	if got != status || events != n || right != n {
		t.Fatalf("the invoice is %s with %d events, %d of them right; want %s with %d", got, events, right, status, n)
	}
}

// spoil makes the outbox refuse rows.
func spoil(t *testing.T, db *pgx.Conn) {
	t.Helper()
	if _, err := db.Exec(t.Context(), `ALTER TABLE outbox.events ADD CONSTRAINT spoilt CHECK (false) NOT VALID`); err != nil {
		t.Fatal(err)
	}
}

var placeholder = regexp.MustCompile(`%s|\?`)

// numbered turns the placeholders of other drivers into $1, $2, ...
func numbered(sql string) string {
	n := 0
	return placeholder.ReplaceAllStringFunc(sql, func(string) string { n++; return fmt.Sprintf("$%d", n) })
}

// serve runs the statements that a stand-in driver asks for until it ends.
func serve(ctx context.Context, db *pgx.Conn, in io.Reader, out io.Writer) error {
	d := json.NewDecoder(in)
	for {
		var ask struct {
			SQL  string `json:"sql"`
			Args []any  `json:"args"`
		}
		if err := d.Decode(&ask); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		tag, err := db.Exec(ctx, numbered(ask.SQL), ask.Args...)
		result := struct {
			Rows  int64  `json:"rows"`
			Error string `json:"error"`
		}{Rows: tag.RowsAffected()}
		if err != nil {
			result.Error = err.Error()
		}
		if err := json.NewEncoder(out).Encode(result); err != nil {
			return err
		}
	}
}

// program is a writer that runs against db and tells whether it ended well.
type program func(t *testing.T, db *pgx.Conn, url string) error

// interpreted runs a script on a stand-in driver. The interpreter's absence is a failure: an example that nothing runs
// goes stale.
// Each of the driver's files goes from testdata to where the interpreter looks for it.
func interpreted(interpreter, script string, driver map[string]string) program {
	return func(t *testing.T, db *pgx.Conn, _ string) error {
		if _, err := exec.LookPath(interpreter); err != nil {
			t.Fatalf("%s is not in PATH; install it (Debian: apt-get install python3 nodejs) and run again", interpreter)
		}
		dir := t.TempDir()
		copyFile(t, script, filepath.Join(dir, filepath.Base(script)))
		for from, to := range driver {
			copyFile(t, filepath.Join("testdata", from), filepath.Join(dir, to))
		}
		cmd := exec.CommandContext(t.Context(), interpreter, filepath.Base(script))
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "DATABASE_URL=unused")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		served := serve(t.Context(), db, out, in)
		in.Close()
		err = cmd.Wait()
		if served != nil {
			t.Fatalf("%v\n%s", served, &stderr)
		}
		if err != nil {
			return fmt.Errorf("%w\n%s", err, &stderr)
		}
		return nil
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

func compiled(t *testing.T, _ *pgx.Conn, url string) error {
	binary := filepath.Join(t.TempDir(), "writer")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./go").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), binary)
	cmd.Env = append(os.Environ(), "DATABASE_URL="+url)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

func TestWriters_CommitTheRowWithItsEventOrNeither(t *testing.T) {
	for name, run := range map[string]program{
		"python": interpreted("python3", "python/writer.py", map[string]string{"psycopg.py": "psycopg.py"}),
		"node": interpreted("node", "node/writer.mjs", map[string]string{
			"pg/index.mjs": "node_modules/pg/index.mjs", "pg/package.json": "node_modules/pg/package.json",
		}),
		"go": compiled,
	} {
		t.Run(name, func(t *testing.T) {
			db, url := open(t)
			for range 2 { // the second run finds the invoice paid
				if err := run(t, db, url); err != nil {
					t.Fatal(err)
				}
				want(t, db, "paid", 1)
			}
		})
		t.Run(name+" with a spoilt outbox", func(t *testing.T) {
			db, url := open(t)
			spoil(t, db)
			if run(t, db, url) == nil {
				t.Error("ended well")
			}
			want(t, db, "open", 0)
		})
	}
}

// joint is where two string literals are written as one, in the ways of the six languages.
var joint = regexp.MustCompile(`"\s*[+.\\]?\s*"|'\s*[+.]?\s*'`)

// statement finds the literal that begins with head.
func statement(t *testing.T, source, head string) string {
	t.Helper()
	source = joint.ReplaceAllString(source, "")
	at := strings.Index(source, head)
	if at < 1 {
		t.Fatalf("no %s", head)
	}
	before := strings.TrimRight(source[:at], " \t\n")
	sql, _, ok := strings.Cut(source[at:], before[len(before)-1:])
	if !ok {
		t.Fatalf("no end of %s", head)
	}
	return numbered(sql)
}

func TestWriters_SQLOfEachLanguageMakesTheSameRows(t *testing.T) {
	const data = `{"payment_id":"pay_1001","invoice_id":"inv_2001","amount":"1500.00","currency":"EUR"}`
	for _, file := range []string{
		"python/writer.py", "node/writer.mjs", "java/Writer.java", "ruby/writer.rb", "php/writer.php", "go/main.go",
	} {
		t.Run(file, func(t *testing.T) {
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			db, _ := open(t)
			update := statement(t, string(source), "UPDATE invoices")
			insert := statement(t, string(source), "INSERT INTO outbox.events")
			args := []any{"acme", "payment", "inv_2001", "payment.received"}
			if strings.Contains(insert, "json_build_object") {
				args = append(args, "pay_1001", "inv_2001", "1500.00", "EUR")
			} else {
				args = append(args, data)
			}
			if tag, err := db.Exec(t.Context(), update, "acme", "inv_2001"); err != nil || tag.RowsAffected() != 1 {
				t.Fatalf("%s: %v, %v", update, tag, err)
			}
			if _, err := db.Exec(t.Context(), insert, args...); err != nil {
				t.Fatalf("%s: %v", insert, err)
			}
			want(t, db, "paid", 1)
		})
	}
}

func TestJavaWriter_Compiles(t *testing.T) {
	javac, err := exec.LookPath("javac")
	if err != nil {
		t.Log("javac is not in PATH: the SQL of the Java example is checked, its syntax is not")
		return
	}
	cmd := exec.CommandContext(t.Context(), javac, "-Xlint:all", "-Werror", "-d", t.TempDir(), "java/Writer.java")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
