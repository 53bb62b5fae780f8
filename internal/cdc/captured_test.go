package cdc

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgproto3"
)

var update = flag.Bool("update", false, "capture testdata/session.hex from a server and rewrite session.golden")

var (
	capturedFile = filepath.Join("testdata", "session.hex")
	goldenFile   = filepath.Join("testdata", "session.golden")
)

// capturedSession is the pgoutput messages of one session with a real server, in
// order: the transactions of captureStatements.
func capturedSession(t testing.TB) [][]byte {
	t.Helper()
	text, err := os.ReadFile(capturedFile)
	if err != nil {
		t.Fatal(err)
	}
	var messages [][]byte
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		b, err := hex.DecodeString(lines.Text())
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, b)
	}
	return messages
}

// captureStatements are one transaction each. The publication of the captured
// session publishes everything, so that skipped kinds are there too.
var captureStatements = []string{
	`INSERT INTO events (body) VALUES ('plain'), (''), (NULL), ('naïve ☃ "quoted"')`,
	`INSERT INTO events (body, amount, at, raw) VALUES
	 ('typed', 12345678901234567890.1200, '2026-11-23 10:00:00.123456+00', '\x00ff10')`,
	`INSERT INTO events (body, at) VALUES ('odd times', 'infinity'), ('older', '0044-03-15 BC')`,
	`SELECT pg_logical_emit_message(true, 'relay.test', 'transactional')`,
	`SELECT pg_logical_emit_message(false, 'relay.test', 'at once')`,
	`ALTER TABLE events ADD COLUMN extra text DEFAULT 'x'; INSERT INTO events (body) VALUES ('wider')`,
	`UPDATE events SET body = 'changed' WHERE body = 'plain'`,
	`DELETE FROM events WHERE body = 'changed'`,
	`INSERT INTO events (mood) VALUES ('glad')`,
	`TRUNCATE events`,
	`INSERT INTO events (body) VALUES (repeat('0123456789', 30))`,
}

func renderItem(it Item) string {
	switch it.Kind {
	case ItemBegin:
		return fmt.Sprintf("begin %s %s xid %d", it.CommitLSN, it.CommitTime.UTC().Format(time.RFC3339Nano), it.XID)
	case ItemCommit:
		return fmt.Sprintf("commit %s end %s", it.CommitLSN, it.EndLSN)
	case ItemMessage:
		return fmt.Sprintf("message %q %q", it.Prefix, it.Content)
	case ItemRow:
		var b strings.Builder
		fmt.Fprintf(&b, "row %s.%s", it.Row.Relation.Schema, it.Row.Relation.Name)
		for i, v := range it.Row.Values {
			fmt.Fprintf(&b, " %s=%c%q", it.Row.Relation.Columns[i].Name, v.Kind, v.Data)
		}
		return b.String()
	default:
		return fmt.Sprintf("%+v", it)
	}
}

func TestDecoder_ReadsACapturedSession(t *testing.T) {
	if *update {
		captureSession(t)
	}
	d := NewDecoder()
	var got strings.Builder
	for _, msg := range capturedSession(t) {
		if item, ok := mustDecode(t, d, msg); ok {
			got.WriteString(renderItem(item) + "\n")
		}
	}
	fmt.Fprintf(&got, "skipped %d\n", d.Skipped())
	if *update {
		if err := os.WriteFile(goldenFile, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("the session reads\n%s\nwant\n%s", got.String(), want)
	}
}

func captureSession(t *testing.T) {
	t.Helper()
	o := newOutbox(t, `CREATE TYPE mood AS ENUM ('glad', 'sad');
		CREATE TABLE events (id bigserial PRIMARY KEY, body text, amount numeric, at timestamptz, raw bytea, mood mood)`)
	o.exec(`DROP PUBLICATION relay; CREATE PUBLICATION relay FOR TABLE events`)
	conn := o.connect()
	defer conn.Close()
	o.createSlot(conn)
	for _, statement := range captureStatements {
		o.exec(statement)
	}
	end := o.writeLSN()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	err := pglogrepl.StartReplication(ctx, conn.pg, o.slot, 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", "publication_names 'relay'", "messages 'true'"}})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for {
		msg, err := conn.pg.ReceiveMessage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		data := msg.(*pgproto3.CopyData).Data
		if data[0] == pglogrepl.PrimaryKeepaliveMessageByteID {
			k, err := pglogrepl.ParsePrimaryKeepaliveMessage(data[1:])
			if err != nil {
				t.Fatal(err)
			}
			if k.ServerWALEnd >= end {
				break
			}
			continue
		}
		out.WriteString(hex.EncodeToString(data[25:]) + "\n")
	}
	if err := os.MkdirAll("testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(capturedFile, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
