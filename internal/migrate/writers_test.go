package migrate_test

import (
	"fmt"
	"regexp"
	"testing"

	"github.com/jackc/pgx/v5"
)

const plainInsert = `INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
	VALUES ('t1', 'payment', 'p1', 'payment.received', '{"a": 1}')`

func TestWriter_NeedsOnlyInsert(t *testing.T) {
	t.Parallel()
	dbURL, super := mustMigrate(t)
	name, roleURL := mustRole(t, super, dbURL, "writer_")
	conn := mustConnect(t, roleURL)

	if _, err := conn.Exec(testContext(t), plainInsert); code(err) != "42501" {
		t.Errorf("insert without a grant: %v, want insufficient_privilege", err)
	}
	mustExec(t, super, "GRANT USAGE ON SCHEMA outbox TO "+name)
	mustExec(t, super, "GRANT INSERT ON outbox.events TO "+name)
	// Whatever the writer's search_path is.
	mustExec(t, conn, `SET search_path = ''`)
	mustExec(t, conn, plainInsert)
	mustExec(t, conn, `INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
		VALUES ('t1', 'payment', 'p2', 'received', pg_catalog.jsonb_build_object('amount', 1500.00))`)
	mustBeDenied(t, conn)
	if _, err := conn.Exec(testContext(t), `SELECT outbox.emit('t1', 'payment.received', 'p1', '{}')`); code(err) != "42501" {
		t.Errorf("emit without a grant: %v, want insufficient_privilege", err)
	}
	const complete = `SELECT count(*)::text FROM outbox.events
		WHERE id IS NOT NULL AND created_at <= now() AND xid < pg_snapshot_xmax(pg_current_snapshot())`
	if n := mustString(t, super, complete); n != "2" {
		t.Errorf("%s complete rows, want 2", n)
	}
}

func TestWriter_NeedsOnlyExecute(t *testing.T) {
	t.Parallel()
	dbURL, super := mustMigrate(t)
	name, roleURL := mustRole(t, super, dbURL, "caller_")
	conn := mustConnect(t, roleURL)
	mustExec(t, super, "GRANT USAGE ON SCHEMA outbox TO "+name)
	if _, err := conn.Exec(testContext(t), functionCalls[0].call); code(err) != "42501" {
		t.Errorf("call without a grant: %v, want insufficient_privilege", err)
	}
	mustExec(t, super, "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox TO "+name)
	for _, c := range functionCalls {
		mustExec(t, conn, c.call)
	}
	if _, err := conn.Exec(testContext(t), plainInsert); code(err) != "42501" {
		t.Errorf("insert without a grant: %v, want insufficient_privilege", err)
	}
	mustBeDenied(t, conn)
	if n := mustString(t, super, `SELECT count(*)::text FROM outbox.events`); n != fmt.Sprint(len(functionCalls)) {
		t.Errorf("%s rows, want %d", n, len(functionCalls))
	}
}

// mustBeDenied fails unless the role can neither read nor change what is in the outbox or the relay's own schema.
func mustBeDenied(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	for _, sql := range []string{
		`SELECT 1 FROM outbox.events`,
		`SELECT 1 FROM outbox.events_default`,
		`INSERT INTO outbox.events_default DEFAULT VALUES`,
		`UPDATE outbox.events SET tenant_id = 'other'`,
		`DELETE FROM outbox.events`,
		`TRUNCATE outbox.events`,
		`SELECT 1 FROM relay.schema_version`,
		`CREATE FUNCTION outbox.mine() RETURNS int LANGUAGE sql RETURN 1`,
	} {
		if _, err := conn.Exec(testContext(t), sql); code(err) != "42501" {
			t.Errorf("%s: %v, want insufficient_privilege", sql, err)
		}
	}
}

// functionCalls holds one call with every parameter and one without the optional ones for each function.
var functionCalls = []struct {
	name, call                              string
	aggregateType, aggregateID, event, want string
}{
	{"emit json", `SELECT outbox.emit('t1', 'stock.item.moved', 'a1', '{"b": 1.10,  "a":2}'::json)`,
		"stock.item", "a1", "stock.item.moved", `{"b": 1.10,  "a":2}`},
	{"emit jsonb", `SELECT outbox.emit('t1', 'stock.moved', 'a1', jsonb_build_object('n', 1500.00))`,
		"stock", "a1", "stock.moved", `{"n": 1500.00}`},
	{"emit literal", `SELECT outbox.emit('t1', 'stock.moved', 'a1', '{ "n" : 1e2 }')`,
		"stock", "a1", "stock.moved", `{ "n" : 1e2 }`},
	{"emit named", `SELECT outbox.emit(tenant_id => 't1', event_type => 'stock.moved', aggregate_id => 'a1', payload => '{}', headers => '{"h": 1}')`,
		"stock", "a1", "stock.moved", `{}`},
	{"payment received", `SELECT outbox.payment_received(tenant_id => 't1', payment_id => 'p1', invoice_id => 'i1', amount => 1500.00, currency => 'EUR')`,
		"payment", "p1", "payment.received", `{"payment_id":"p1","invoice_id":"i1","amount":1500.00,"currency":"EUR"}`},
	{"payment received, all", `SELECT outbox.payment_received('t1', 'p1', 'i1', 123456789012345678901234567890.123456789, 'EUR', 'card', 'RF1')`,
		"payment", "p1", "payment.received",
		`{"payment_id":"p1","invoice_id":"i1","amount":123456789012345678901234567890.123456789,"currency":"EUR","payment_method":"card","reference_number":"RF1"}`},
	{"payment failed", `SELECT outbox.payment_failed('t1', 'p1', 'i1', -0.10, 'EUR')`,
		"payment", "p1", "payment.failed", `{"payment_id":"p1","invoice_id":"i1","amount":-0.10,"currency":"EUR"}`},
	{"payment failed, one optional", `SELECT outbox.payment_failed('t1', 'p1', 'i1', 1, 'EUR', error_code => E'a"b\\c\n')`,
		"payment", "p1", "payment.failed", `{"payment_id":"p1","invoice_id":"i1","amount":1,"currency":"EUR","error_code":"a\"b\\c\n"}`},
	{"customer created", `SELECT outbox.customer_created('t1', 'c1', 'Ada')`,
		"customer", "c1", "customer.created", `{"customer_id":"c1","customer_name":"Ada"}`},
	{"customer created, all", `SELECT outbox.customer_created('t1', 'c1', 'Ada', 'a@b.example', '+1', 'person')`,
		"customer", "c1", "customer.created",
		`{"customer_id":"c1","customer_name":"Ada","customer_email":"a@b.example","customer_phone":"+1","customer_type":"person"}`},
	{"customer updated, NULL inside changes", `SELECT outbox.customer_updated('t1', 'c1', 'Ada', '{"phone": null, "limit": 10.50}')`,
		"customer", "c1", "customer.updated", `{"customer_id":"c1","customer_name":"Ada","changes":{"limit": 10.50, "phone": null}}`},
	{"customer updated, all", `SELECT outbox.customer_updated('t1', 'c1', 'Ada', '{}', 'a@b.example', '+1')`,
		"customer", "c1", "customer.updated",
		`{"customer_id":"c1","customer_name":"Ada","changes":{},"customer_email":"a@b.example","customer_phone":"+1"}`},
	{"order created", `SELECT outbox.sales_order_created('t1', 'o1', 'SO-1', 10.0, 'EUR')`,
		"sales_order", "o1", "sales_order.created", `{"order_id":"o1","order_number":"SO-1","amount":10.0,"currency":"EUR"}`},
	{"order created, all", `SELECT outbox.sales_order_created('t1', 'o1', 'SO-1', 10.0, 'EUR', 'c1', 'Ada', 3)`,
		"sales_order", "o1", "sales_order.created",
		`{"order_id":"o1","order_number":"SO-1","amount":10.0,"currency":"EUR","customer_id":"c1","customer_name":"Ada","items_count":3}`},
	{"order confirmed", `SELECT outbox.sales_order_confirmed('t1', 'o1', 'SO-1', 10.0, 'EUR')`,
		"sales_order", "o1", "sales_order.confirmed", `{"order_id":"o1","order_number":"SO-1","amount":10.0,"currency":"EUR"}`},
	{"order confirmed, all", `SELECT outbox.sales_order_confirmed('t1', 'o1', 'SO-1', 10.0, 'EUR', 'c1', 'Ada')`,
		"sales_order", "o1", "sales_order.confirmed",
		`{"order_id":"o1","order_number":"SO-1","amount":10.0,"currency":"EUR","customer_id":"c1","customer_name":"Ada"}`},
	{"order cancelled", `SELECT outbox.sales_order_cancelled('t1', 'o1', 'SO-1')`,
		"sales_order", "o1", "sales_order.cancelled", `{"order_id":"o1","order_number":"SO-1"}`},
	{"order cancelled, all", `SELECT outbox.sales_order_cancelled('t1', 'o1', 'SO-1', 'too late')`,
		"sales_order", "o1", "sales_order.cancelled", `{"order_id":"o1","order_number":"SO-1","reason":"too late"}`},
}

func TestFunctions_InsertTheEventTheyAreNamedAfter(t *testing.T) {
	t.Parallel()
	_, conn := mustMigrate(t)
	for _, c := range functionCalls {
		t.Run(c.name, func(t *testing.T) {
			id := mustString(t, conn, `SELECT id::text FROM (`+c.call+`) AS f(id)`)
			var tenant, aggregateType, aggregateID, event, payload string
			err := conn.QueryRow(testContext(t), `
				SELECT tenant_id, aggregate_type, aggregate_id, event_type, payload::text FROM outbox.events WHERE id = $1`,
				id).Scan(&tenant, &aggregateType, &aggregateID, &event, &payload)
			if err != nil {
				t.Fatal(err)
			}
			got := [...]string{tenant, aggregateType, aggregateID, event, payload}
			if want := [...]string{"t1", c.aggregateType, c.aggregateID, c.event, c.want}; got != want {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

func TestFunctions_TakeADriversParameters(t *testing.T) {
	t.Parallel()
	_, conn := mustMigrate(t)
	for _, payload := range []any{`{"n":1.0}`, []byte(`{"n":1.0}`)} {
		id := mustString(t, conn, `SELECT outbox.emit($1, $2, $3, $4)::text`, "t1", "stock.moved", "a1", payload)
		if got := mustString(t, conn, `SELECT payload::text FROM outbox.events WHERE id = $1`, id); got != `{"n":1.0}` {
			t.Errorf("%T became %s", payload, got)
		}
	}
}

func TestFunctions_RefuseWhatCannotBecomeAnEvent(t *testing.T) {
	t.Parallel()
	_, conn := mustMigrate(t)
	for _, c := range []struct{ name, call, code string }{
		{"required NULL", `SELECT outbox.payment_received('t1', 'p1', 'i1', NULL, 'EUR')`, "22004"},
		{"changes NULL", `SELECT outbox.customer_updated('t1', 'c1', 'Ada', NULL)`, "22004"},
		{"id NULL", `SELECT outbox.sales_order_cancelled('t1', NULL, 'SO-1')`, "22004"},
		{"tenant NULL", `SELECT outbox.sales_order_cancelled(NULL, 'o1', 'SO-1')`, "23502"},
		{"payload NULL", `SELECT outbox.emit('t1', 'stock.moved', 'a1', NULL)`, "23502"},
		{"payload not JSON", `SELECT outbox.emit('t1', 'stock.moved', 'a1', '{')`, "22P02"},
		{"event without aggregate", `SELECT outbox.emit('t1', 'moved', 'a1', '{}')`, "22023"},
		{"event with empty aggregate", `SELECT outbox.emit('t1', '.moved', 'a1', '{}')`, "22023"},
		{"required left out", `SELECT outbox.payment_received('t1', 'p1', 'i1', 1)`, "42883"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := conn.Exec(testContext(t), c.call); code(err) != c.code {
				t.Errorf("%v, want %s", err, c.code)
			}
		})
	}
	if n := mustString(t, conn, `SELECT count(*)::text FROM outbox.events`); n != "0" {
		t.Errorf("%s rows, want none", n)
	}
}

func TestUUIDv7_SortsByTimeAndIsVersion7(t *testing.T) {
	t.Parallel()
	_, conn := mustMigrate(t)
	rows, err := conn.Query(testContext(t), `SELECT outbox.uuid_v7()::text, clock_timestamp()::text FROM generate_series(1, 2000)`)
	if err != nil {
		t.Fatal(err)
	}
	shape := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	var id, at, last, lastAt string
	seen := map[string]bool{}
	_, err = pgx.ForEachRow(rows, []any{&id, &at}, func() error {
		if !shape.MatchString(id) {
			t.Errorf("%s is no UUID of version 7", id)
		}
		// The 16 digits of time (15 and the version) never go back; within one microsecond they are equal.
		if last != "" && id[:18] < last[:18] && at >= lastAt {
			t.Errorf("%s at %s comes after %s at %s", id, at, last, lastAt)
		}
		if seen[id] {
			t.Errorf("%s came twice", id)
		}
		seen[id], last, lastAt = true, id, at
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	const off = `SELECT (abs(extract(epoch FROM now()) * 1000 -
		('x' || left(replace(outbox.uuid_v7()::text, '-', ''), 12))::bit(48)::bigint) < 60000)::text`
	if near := mustString(t, conn, off); near != "true" {
		t.Error("the first 48 bits are not the milliseconds since 1970")
	}
}
