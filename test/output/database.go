package output

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// CheckDatabase is for the end of a test, while its database is there. It makes known what subscriptions sign with and send in
// their headers, as far as that stands there unsealed, and then looks through all tables of the relay, and once more through
// what processes of the test have written. The secrets' own columns are left out, and so are the bodies of events, which are
// their writers'. A database without the relay's schema is in order.
func CheckDatabase(t testing.TB, url string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return fmt.Errorf("look for secrets: %w", err)
	}
	for name, value := range map[string]string{"statement_timeout": "0", "lock_timeout": "0", "client_encoding": "UTF8"} {
		config.RuntimeParams[name] = value // whatever the test has set for its database
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("look for secrets: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	rows, err := conn.Query(ctx, `SELECT relname, relname = 'subscriptions' FROM pg_class
		WHERE relnamespace = to_regnamespace('relay') AND relkind IN ('r', 'p') AND NOT relispartition AND relname <> 'bodies' ORDER BY 2 DESC, 1`)
	if err != nil {
		return fmt.Errorf("look for secrets: list tables: %w", err)
	}
	var tables []string
	var name string
	var hasSecrets bool
	if _, err := pgx.ForEachRow(rows, []any{&name, &hasSecrets}, func() error {
		tables = append(tables, name)
		return nil
	}); err != nil {
		return fmt.Errorf("look for secrets: list tables: %w", err)
	}
	for _, table := range tables {
		if err := checkTable(ctx, t, conn, table); err != nil {
			return fmt.Errorf("look for secrets in relay.%s: %w", table, err)
		}
	}
	all.Lock()
	buffers := ofTest(t).buffers
	all.Unlock()
	for _, b := range buffers {
		b.check(t)
	}
	return nil
}

// chunk is how many bytes of rows are looked through at once.
const chunk = 1 << 20

func checkTable(ctx context.Context, t testing.TB, conn *pgx.Conn, table string) error {
	t.Helper()
	rows, err := conn.Query(ctx, "SELECT to_jsonb(r)::text FROM relay."+pgx.Identifier{table}.Sanitize()+" r")
	if err != nil {
		return err
	}
	var text strings.Builder
	look := func() {
		Check(t, "relay."+table, text.String())
		text.Reset()
	}
	var row string
	_, err = pgx.ForEachRow(rows, []any{&row}, func() error {
		if table == "subscriptions" {
			if row, err = withoutSecrets(t, row); err != nil {
				return err
			}
		}
		text.WriteString(row)
		text.WriteByte('\n')
		if text.Len() > chunk {
			look()
		}
		return nil
	})
	look()
	return err
}

// withoutSecrets takes the secrets out of a row of relay.subscriptions and makes them known.
func withoutSecrets(t testing.TB, row string) (string, error) {
	var columns map[string]json.RawMessage
	if err := json.Unmarshal([]byte(row), &columns); err != nil {
		return "", err
	}
	for _, column := range []string{"secret", "next_secret", "previous_secret", "headers", "client_certificate"} {
		var value *string
		if err := json.Unmarshal(columns[column], &value); len(columns[column]) > 0 && err != nil {
			return "", err
		}
		delete(columns, column)
		if value == nil || strings.HasPrefix(*value, "sealed:") {
			continue
		}
		var pairs [][2]string
		if column == "client_certificate" {
			// Any line of its key gives it away; the certificates before it are shown to everybody.
			_, key, _ := strings.Cut(*value, "PRIVATE KEY-----\n")
			for line := range strings.Lines(key) {
				if line = strings.TrimSpace(line); !strings.HasPrefix(line, "-----") {
					pairs = append(pairs, [2]string{"", line})
				}
			}
		} else if column != "headers" {
			pairs = [][2]string{{"", *value}}
		} else if err := json.Unmarshal([]byte(*value), &pairs); err != nil {
			continue // what other hands wrote there
		}
		for _, pair := range pairs {
			// A short word is what somebody typed into a test that is about something else.
			if len(pair[1]) >= 2*shortest {
				Secret(t, pair[1])
			}
		}
	}
	rest, err := json.Marshal(columns)
	return string(rest), err
}
