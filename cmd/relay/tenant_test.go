package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/erase"
)

// erasureReport is what the command prints as JSON.
type erasureReport struct {
	Tenant string
	DryRun bool `json:"dry_run"`
	erase.Report
}

// tables counts the rows by table of the relay's, and of the outbox, that name a tenant or one of some subscriptions anywhere.
func (s *stage) tables(tenant string, subs ...string) map[string]int {
	s.t.Helper()
	rows, err := s.conn.Query(s.t.Context(), `SELECT relnamespace::regnamespace::text || '.' || relname FROM pg_class
		WHERE relnamespace IN ('relay'::regnamespace, 'outbox'::regnamespace) AND relkind IN ('r', 'p') AND NOT relispartition`)
	if err != nil {
		s.t.Fatal(err)
	}
	var names []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			s.t.Fatal(err)
		}
		names = append(names, name)
	}
	if err := rows.Err(); err != nil {
		s.t.Fatal(err)
	}
	found := make(map[string]int)
	for _, name := range names {
		var n int
		sql := "SELECT count(*) FROM " + name + " t WHERE t::text ~ ('(' || array_to_string($1::text[], '|') || ')')"
		if err := s.conn.QueryRow(s.t.Context(), sql, append([]string{tenant}, subs...)).Scan(&n); err != nil {
			s.t.Fatalf("%s: %v", name, err)
		}
		if n > 0 {
			found[name] = n
		}
	}
	return found
}

// furnish gives a tenant something in every table that has no part in delivery itself.
func (s *stage) furnish(tenant, sub string) {
	s.t.Helper()
	s.relay("token", "create", "--tenant", tenant).exits(0)
	s.exec(`INSERT INTO relay.changes (tenant_id, actor, action, target, request_id, address) VALUES ($1, 'x', 'subscription.create', $2, '', '')`, tenant, sub)
	s.exec(`INSERT INTO relay.idempotency (tenant_id, operation, key, request, made) VALUES ($1, 'x', 'k', '', $2)`, tenant, sub)
	s.exec(`INSERT INTO relay.failing (subscription_id, since) VALUES ($1, now()) ON CONFLICT DO NOTHING`, sub)
	s.exec(`INSERT INTO relay.replays (subscription_id, tenant_id, events, spec, from_at, to_at, rate, total, state, ended_at)
		VALUES ($1, $2, '{}', 'x', now() - interval '1 h', now(), 1, 0, 'DONE', now())`, sub, tenant)
	s.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload) VALUES ($1, 'a', 'b', 'no.such', '{}')`, tenant)
}

// park puts rows of a tenant as a relay leaves them: one that waits with its body, one that ended, and one in quarantine.
func (s *stage) park(tenant, sub string, n int) {
	s.t.Helper()
	s.exec(`INSERT INTO relay.bodies SELECT ('0/' || to_hex(16 * g + ascii($1)))::pg_lsn, outbox.uuid_v7(), $1, 'payment.received', 'invoice', 'i', now(), ''
		FROM generate_series(1, $2::int) g`, tenant, n)
	s.exec(`INSERT INTO relay.parked (subscription_id, commit_lsn, row_index, event_id, id, lane, next_attempt_at, created_at)
		SELECT $2, commit_lsn, 0, event_id, outbox.uuid_v7(), 7, now() + interval '1 h', now() FROM relay.bodies WHERE tenant_id = $1`, tenant, sub)
	s.exec(`INSERT INTO relay.deliveries (id, created_at, tenant_id, subscription_id, event_id, event_type, aggregate_type, aggregate_id, commit_lsn,
		row_index, status, attempts, ended_at) SELECT outbox.uuid_v7(), now(), $1, $2, outbox.uuid_v7(), 'x', 'y', 'z', '0/1', 0, 'DELIVERED', 1, now()
		FROM generate_series(1, $3::int)`, tenant, sub, n)
	s.exec(`INSERT INTO relay.quarantine (commit_lsn, row_index, committed_at, reason, detail, tenant_id, raw) VALUES ('0/1', ascii($1), now(), 'x', 'x', $1, '')`, tenant)
}

func TestTenantErase_WithoutARelayLeavesNothingOfOneTenantAndAllOfTheOther(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	const n = 4500 // more than two statements of each kind
	acme, globex := s.subscribe("acme", "https://a.example/x"), s.subscribe("globex", "https://b.example/x")
	for tenant, sub := range map[string]string{"acme": acme, "globex": globex} {
		s.furnish(tenant, sub)
		s.park(tenant, sub, n)
	}
	others, ours := s.tables("globex", globex), s.tables("acme", acme)
	if len(ours) < 10 {
		t.Fatalf("the tenant is in %v alone: this test shows little", ours)
	}

	s.relay("tenant", "erase").exits(exitUsage).complains("--tenant is required")
	s.relay("tenant", "erase", "--tenant", "acme", "--yes", "--dry-run").exits(exitUsage).complains("exclude each other")
	s.relay("tenant", "erase", "--tenant", "acme", "--outbox", "--set", "outbox.table=public.mine").exits(exitUsage).complains("public.mine, which is yours")
	s.relay("tenant", "erase", "--tenant", "acme").exits(exitUsage).complains("1 subscriptions, 4500 deliveries that wait", "add --yes")
	s.relay("tenant", "erase", "--tenant", "acme", "--dry-run", "--outbox").exits(0).quiet().says("kept: ", "4500 bodies", "1 rows of the outbox")
	s.relay("tenant", "erase", "--tenant", "nobody", "--yes", "--wait", "100ms").exits(0).says("erased: 0 subscriptions")
	if got := s.tables("acme", acme); fmt.Sprint(got) != fmt.Sprint(ours) {
		t.Errorf("counting has changed %v to %v", ours, got)
	}

	s.exec("DELETE FROM relay.subscriptions WHERE id = $1", acme) // as an erasure that was cut off leaves it
	var got erasureReport
	s.relay("tenant", "erase", "--tenant", "acme", "--yes", "--wait", "200ms", "-o", "json").exits(0).complains("").decode(&got)
	want := erase.Report{Kept: deliver.Kept{Waiting: n, Bodies: n, Deliveries: n, Replays: 1}, Quarantined: 1, Changes: 3, IdempotencyKeys: 1, Tokens: 1}
	if got.Tenant != "acme" || got.DryRun || got.Report != want {
		t.Errorf("got %+v, want %+v", got.Report, want)
	}
	if left := s.tables("acme", acme); fmt.Sprint(left) != "map[outbox.events:1 relay.changes:1]" {
		t.Errorf("left: %v", left)
	}
	s.relay("tenant", "erase", "--tenant", "acme", "--yes", "--wait", "200ms", "--outbox").exits(0).says("1 rows of the outbox")
	if left := s.text("SELECT string_agg(tenant_id || ' ' || actor || ' ' || action || ' ' || (after ->> 'tokens') || ' ' || (after ->> 'bodies'), ', ' ORDER BY id)" +
		" FROM relay.changes WHERE tenant_id = 'acme'"); left != "acme role:postgres tenant.erase 1 4500, acme role:postgres tenant.erase 0 0" {
		t.Errorf("noted: %s", left)
	}
	if got := s.tables("globex", globex); fmt.Sprint(got) != fmt.Sprint(others) {
		t.Errorf("of the other tenant, %v has become %v", others, got)
	}
	if n := s.text("SELECT count(*)::text FROM relay.requests"); n != "0" {
		t.Errorf("%s requests are left", n)
	}
}

// Beside a relay that delivers: events of both tenants are in memory, on the wire, waiting and coming.
func TestTenantErase_BesideARelayLeavesNothingOfOneTenantAndDeliversTheOthers(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	works := newReceiver(t, http.StatusOK)
	fails := newReceiver(t, http.StatusInternalServerError)
	release := make(chan struct{})
	hangs := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(hangs.Close)
	t.Cleanup(func() { close(release) })
	s.start()
	acme := []string{s.subscribe("acme", works.URL), s.subscribe("acme", fails.URL), s.subscribe("acme", hangs.URL)}
	other := newReceiver(t, http.StatusOK)
	globex, waiting := s.subscribe("globex", other.URL), s.subscribe("globex", fails.URL)
	s.furnish("acme", acme[0])
	s.furnish("globex", globex)
	for i := range 50 {
		s.commit("acme", fmt.Sprint("i", i))
		s.commit("globex", fmt.Sprint("i", i))
	}
	s.eventually("some wait", func() bool {
		return s.text("SELECT count(DISTINCT subscription_id)::text FROM relay.parked") == "3" &&
			s.text("SELECT count(*)::text FROM relay.quarantine") == "2"
	})
	s.relay("replay", "--subscription", acme[0], "--from", "1h", "--rate", "1").exits(0)
	stop, done, sent := make(chan struct{}), make(chan struct{}), 50
	writer := s.another()
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
				writer.commit("globex", fmt.Sprint("i", sent%7))
				sent++
			}
		}
	}()
	// A relay that has no time to answer is not hurried past.
	s.relay("tenant", "erase", "--tenant", "acme", "--yes", "--wait", "1ns").exits(exitFailed).complains("has not let go")
	s.commit("acme", "late") // nobody's any more
	r := s.relay("tenant", "erase", "--tenant", "acme", "--yes", "--outbox").exits(0).quiet().says("erased: ")
	close(stop)
	<-done
	if left := s.tables("acme", acme...); fmt.Sprint(left) != "map[relay.changes:2]" {
		t.Errorf("left: %v\n%s", left, r.out)
	}
	if s.text("SELECT count(*)::text FROM relay.changes WHERE tenant_id = 'acme' AND action = 'tenant.erase'") != "2" {
		t.Error("the erasures are not noted")
	}
	s.eventually("all of the other tenant arrives", func() bool {
		return s.text("SELECT count(*)::text FROM relay.deliveries WHERE subscription_id = $1 AND status = 'DELIVERED'", globex) == fmt.Sprint(sent)
	})
	if types, verified := other.got(); len(types) != sent || verified != sent {
		t.Errorf("%d of %d arrived, %d verify", len(types), sent, verified)
	}
	for sql, want := range map[string]string{
		"SELECT count(*)::text FROM relay.parked WHERE subscription_id = '" + waiting + "'":               fmt.Sprint(sent),
		"SELECT count(*)::text FROM relay.incidents":                                                      "0", // the audit takes rows that were erased for what they are
		"SELECT count(*)::text FROM relay.bodies WHERE tenant_id = 'globex'":                              fmt.Sprint(sent),
		"SELECT count(*)::text FROM outbox.events WHERE tenant_id = 'globex'":                             fmt.Sprint(sent + 1),
		"SELECT count(*)::text FROM relay.quarantine WHERE tenant_id = 'globex'":                          "1",
		"SELECT count(*)::text FROM relay.tokens WHERE tenant_id = 'globex'":                              "1",
		"SELECT count(*)::text FROM relay.subscriptions WHERE tenant_id = 'globex'":                       "2",
		"SELECT count(*)::text FROM relay.changes WHERE tenant_id = 'globex' AND actor <> 'relay'":        "3",
		"SELECT count(*)::text FROM relay.replays WHERE tenant_id = 'globex'":                             "1",
		"SELECT count(*)::text FROM relay.deliveries WHERE tenant_id NOT IN ('acme', 'globex')":           "0",
		"SELECT count(*)::text FROM relay.deliveries WHERE tenant_id = 'globex' AND status = 'CANCELLED'": "0",
	} {
		if got := s.text(sql); got != want {
			t.Errorf("%s: %s, want %s", strings.TrimPrefix(sql, "SELECT count(*)::text FROM "), got, want)
		}
	}
	// The tenant may come back.
	again := s.subscribe("acme", works.URL)
	before, _ := works.got()
	s.commit("acme", "new")
	s.eventually("a new event arrives", func() bool {
		types, _ := works.got()
		return len(types) == len(before)+1
	})
	s.relay("subscriptions", "show", again).exits(0)
}

// What is gone is counted and noted, also when the end is not reached.
func TestTenantErase_SaysSoWhenMoreKeepsComing(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.park("acme", s.subscribe("acme", "https://a.example/x"), 3)
	s.exec(`CREATE FUNCTION public.more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO relay.quarantine (commit_lsn, row_index, committed_at, reason, detail, tenant_id, raw)
			VALUES ('0/1', OLD.row_index + 1, now(), 'x', 'x', OLD.tenant_id, ''); RETURN NULL; END $$`)
	s.exec("CREATE TRIGGER more AFTER DELETE ON relay.quarantine FOR EACH ROW EXECUTE FUNCTION public.more()")
	s.relay("tenant", "erase", "--tenant", "acme", "--yes", "--wait", "20ms").exits(exitFailed).says("erased: 1 subscriptions, 3 deliveries that wait").
		complains("1 rows: more of the tenant came meanwhile", "call it again")
	s.exec("DROP TRIGGER more ON relay.quarantine")
	s.relay("tenant", "erase", "--tenant", "acme", "--yes", "--wait", "20ms").exits(0).says("erased: 0 subscriptions", "1 quarantined rows")
	if left := s.tables("acme"); fmt.Sprint(left) != "map[relay.changes:2]" {
		t.Errorf("left: %v", left)
	}
}
