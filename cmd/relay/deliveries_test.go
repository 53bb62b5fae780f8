package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/test/output"
)

// fixture is a subscription with deliveries in every status, made by hand.
type fixture struct {
	*stage
	sub, pending, behind, dead, delivered string
}

// idAt is an id as deliveries have them, committed so long ago.
func idAt(ago time.Duration, n byte) string {
	id := uuid.Must(uuid.NewV7())
	ms := time.Now().Add(-ago).UnixMilli()
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	id[15] = n
	return id.String()
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	s := newStage(t)
	f := &fixture{stage: s, sub: s.subscribe("acme", "https://hooks.example.com/x"), pending: idAt(40*time.Minute, 1), behind: idAt(30*time.Minute, 2),
		dead: idAt(50*time.Hour, 3), delivered: idAt(time.Second, 4)}
	const history = `[{"n": 1, "at": "2026-01-02T03:04:05Z", "duration_ms": 12, "status": 503, "reason": "http_5xx", "detail": "HTTP 503"}]`
	for i, p := range []struct{ id, next string }{{f.pending, "2100-01-01T00:00:00Z"}, {f.behind, ""}} {
		s.exec(`INSERT INTO relay.bodies (commit_lsn, event_id, tenant_id, event_type, aggregate_type, aggregate_id, committed_at, body)
			SELECT ('0/' || $1::int)::pg_lsn, $2::uuid, 'acme', 'payment.received', 'invoice', 'i1', now(), '{}'`, i+1, p.id)
		s.exec(`INSERT INTO relay.parked (subscription_id, commit_lsn, row_index, event_id, id, lane, attempts, next_attempt_at, last_error, last_status, history, created_at)
			SELECT $1, ('0/' || $2::int)::pg_lsn, 0, $3::uuid, $3::uuid, 7, 1 - ($2 - 1), nullif($4, '')::timestamptz, 'http_5xx: HTTP 503', 503, $5::jsonb, now()`,
			f.sub, i+1, p.id, p.next, history)
	}
	for _, d := range []struct{ id, tenant, status, event string }{{f.dead, "acme", "DEAD", "customer.created"}, {f.delivered, "globex", "DELIVERED", "payment.failed"}} {
		s.exec(`INSERT INTO relay.deliveries (id, created_at, tenant_id, subscription_id, event_id, event_type, aggregate_type, aggregate_id, commit_lsn,
			row_index, status, attempts, last_error, last_status, duration_us, ended_at, history)
			SELECT $1, to_timestamp(('x' || substr(replace($1::uuid::text, '-', ''), 1, 12))::bit(48)::bigint / 1000.0), $2, $3, $1, $4, 'x', 'y', '0/9', 0, $5,
			       2, NULL, 200, 1500, now(), $6::jsonb`, d.id, d.tenant, f.sub, d.event, d.status, history)
	}
	return f
}

func (f *fixture) list(args ...string) string {
	f.t.Helper()
	var got struct{ Items []deliver.Record }
	f.relay(append([]string{"deliveries", "list", "-o", "json"}, args...)...).exits(0).quiet().decode(&got)
	names := map[string]string{f.pending: "pending", f.behind: "behind", f.dead: "dead", f.delivered: "delivered"}
	var out []string
	for _, d := range got.Items {
		out = append(out, names[d.ID.String()])
	}
	return strings.Join(out, " ")
}

func TestDeliveriesList_IsNewestFirstAndNarrows(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for args, want := range map[string]string{
		"":                             "delivered behind pending dead",
		"--status PENDING":             "behind pending",
		"--status dead":                "dead",
		"--status CANCELLED":           "",
		"--tenant acme":                "behind pending dead",
		"--tenant globex":              "delivered",
		"--event customer.created":     "dead",
		"--subscription " + f.sub:      "delivered behind pending dead",
		"--subscription " + f.dead:     "",
		"--limit 2":                    "delivered behind",
		"--cursor " + f.behind:         "pending dead",
		"--limit 1 --cursor " + f.dead: "",
	} {
		if got := f.list(strings.Fields(args)...); got != want {
			t.Errorf("%s: got %q, want %q", args, got, want)
		}
	}
	f.relay("deliveries", "list").exits(0).quiet().says("ID", "STATUS", f.dead, "DEAD", "waits for an earlier one of its key",
		"next attempt 2100-01-01 00:00:00.000Z", "http_5xx: HTTP 503")
}

func TestDeliveriesList_GoesOnFromItsCursor(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var seen []string
	cursor := ""
	for range 5 {
		args := []string{"deliveries", "list", "--limit", "1", "-o", "json"}
		if cursor != "" {
			args = append(args, "--cursor", cursor)
		}
		var page struct {
			Items []deliver.Record
			Next  *string `json:"next_cursor"`
		}
		f.relay(args...).exits(0).decode(&page)
		for _, d := range page.Items {
			seen = append(seen, d.ID.String())
		}
		if page.Next == nil {
			break
		}
		cursor = *page.Next
	}
	if want := []string{f.delivered, f.behind, f.pending, f.dead}; fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", seen, want)
	}
	f.relay("deliveries", "list", "--limit", "2").exits(0).complains("there may be more: --cursor " + f.behind)
}

func TestDeliveriesShow_TellsAttemptsAndWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.relay("deliveries", "show", f.pending).exits(0).quiet().says("PENDING", "next attempt 2100-01-01", "invoice i1", "ATTEMPT", "http_5xx",
		"12ms", "2026-01-02 03:04:05.000Z", "HTTP 503")
	f.exec(`UPDATE relay.parked SET history = '[{"n": 1, "at": "2026-01-02T03:04:05Z", "duration_ms": 31, "phases_us": {"dns": 1500, "tls": 20000},
		"status": 500, "reason": "http_5xx", "detail": "HTTP 500", "answer": "no such\norder", "address": "192.0.2.7:443"},
		{"at": "2026-01-02T03:05:05Z", "duration_ms": 3, "status": 429, "reason": "http_429"}]' WHERE id = $1`, f.pending)
	f.relay("deliveries", "show", f.pending).exits(0).quiet().says("dns 1.5ms, tls 20.0ms", "192.0.2.7:443", "no such\uFFFDorder",
		"-        2026-01-02 03:05:05.000Z", "http_429")
	f.exec("UPDATE relay.deliveries SET history = NULL, attempts = 1, ended_at = '2026-01-02T03:04:05Z' WHERE id = $1", f.delivered)
	f.relay("deliveries", "show", f.delivered).exits(0).quiet().says("1        2026-01-02 03:04:04.998Z  1ms", "taken", "HTTP 200")
	f.exec(`UPDATE relay.deliveries SET history = '[{"n": 1}]' WHERE id = $1`, f.delivered)
	f.relay("deliveries", "show", f.behind).exits(0).says("waits for an earlier one of its key")
	var got deliver.Record
	f.relay("deliveries", "show", f.delivered, "-o", "json").exits(0).quiet().decode(&got)
	if got.Status != deliver.StatusDelivered || got.DeliveredAt == nil || *got.DurationMicros != 1500 || *got.LastStatusCode != 200 || len(got.History) == 0 {
		t.Errorf("got %+v", got)
	}
	none := idAt(0, 9)
	f.relay("deliveries", "show", none).exits(exitFailed).complains("delivery "+none, "not found")
}

func TestDeliveriesRetry_LeavesTheRequestWhenNoRelayRuns(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.relay("deliveries", "retry", f.pending, f.dead, "--wait", "0s").exits(0).says(f.pending, f.dead, "asked for").complains("2 noted; no relay")
	if got := f.text("SELECT string_agg(kind || ' ' || target, ',' ORDER BY id) FROM relay.requests"); got != "retry_delivery "+f.pending+",retry_delivery "+f.dead {
		t.Errorf("requests are %s", got)
	}
	var list struct{ Items []answer }
	f.relay("deliveries", "retry", f.dead, "--wait", "1ms", "-o", "json").exits(0).decode(&list)
	if len(list.Items) != 1 || list.Items[0].CarriedOut || list.Items[0].ID != f.dead {
		t.Errorf("got %+v", list)
	}
	f.relay("deliveries", "retry", f.delivered).exits(exitFailed).complains("is DELIVERED", "only PENDING and DEAD")
	f.relay("deliveries", "retry", idAt(0, 9)).exits(exitFailed).complains("not found")
}

func TestDeliveriesRetry_BringsADeadOneBack(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.set = append(s.set, "--set", "deliver.retry.schedule=0s")
	s.start()
	s.eventually("the partitions are made", func() bool { // a record that is being moved to one is not found
		return s.text("SELECT (count(*) > 1)::text FROM pg_inherits WHERE inhparent = 'relay.deliveries'::regclass") == "true"
	})
	recv := newReceiver(t, http.StatusInternalServerError)
	s.subscribe("acme", recv.URL)
	s.commit("acme", "i1")
	s.eventually("the delivery is dead", func() bool { return s.text("SELECT count(*)::text FROM relay.deliveries WHERE status = 'DEAD'") == "1" })
	id := s.text("SELECT id::text FROM relay.deliveries")
	recv.answer(http.StatusOK)
	var list struct{ Items []answer }
	s.relay("deliveries", "retry", id, "--wait", "20s", "-o", "json").exits(0).quiet().decode(&list)
	if len(list.Items) != 1 || !list.Items[0].CarriedOut || strings.Contains(list.Items[0].Result, "DEAD") {
		t.Errorf("got %+v", list)
	}
	s.eventually("it arrives", func() bool {
		return s.text("SELECT count(*)::text FROM relay.deliveries WHERE status = 'DELIVERED' AND id = $1::uuid", id) == "1"
	})
}

func TestDeliveriesRetry_SaysWhenNothingCanBeDone(t *testing.T) {
	t.Parallel()
	f := newFixture(t) // its dead one has no body any more
	f.start()
	f.relay("deliveries", "retry", f.dead, "--wait", "20s").exits(exitFailed).says("DEAD, not tried again").complains("1 of 1 could not be tried again")
}

func TestDeliveriesTail_PrintsWhatEndsAndStops(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, form := range []string{"text", "json"} {
		ctx, cancel := context.WithCancel(t.Context())
		out, errs := output.New(t, "stdout"), output.New(t, "stderr")
		code := make(chan int, 1)
		go func() {
			code <- callWith(ctx, out, errs, append([]string{"deliveries", "tail", "--tenant", "umbrella", "-o", form}, f.set...)...)
		}()
		n := 0
		f.eventually("an ended delivery is printed", func() bool {
			if n < 250 { // until one falls behind the first look
				n++
				f.exec(`INSERT INTO relay.deliveries (id, created_at, tenant_id, subscription_id, event_id, event_type, aggregate_type, aggregate_id,
					commit_lsn, row_index, status, attempts, ended_at) SELECT $1, now(), 'umbrella', $2, $1, 'payment.failed', 'x', 'y', '0/9', 0, 'DELIVERED', 1, now()`,
					idAt(0, byte(n)), f.sub)
			}
			return strings.Contains(out.String(), "umbrella") && strings.Contains(out.String(), "DELIVERED")
		})
		cancel()
		if c := <-code; c != 0 || errs.String() != "" {
			t.Errorf("-o %s: exit code %d, stderr %q", form, c, errs.String())
		}
		if strings.Contains(out.String(), f.dead) || strings.Contains(out.String(), f.pending) {
			t.Errorf("-o %s prints what is of another tenant or ended before:\n%s", form, out.String())
		}
	}
}

func TestDeliveriesDiscard_LetsTheKeyGoOn(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.set = append(s.set, "--set", "deliver.retry.schedule=0s")
	s.start()
	recv := newReceiver(t, http.StatusInternalServerError)
	sub := strings.TrimSpace(s.relay("subscriptions", "add", "--tenant", "acme", "--url", recv.URL, "--event", "*", "--secret", testSecret,
		"--on-dead", "halt").exits(0).out)
	s.relay("subscriptions", "show", sub).exits(0).quiet().says("on dead", "halt")
	s.commit("acme", "i1")
	s.commit("acme", "i1")
	s.eventually("one is dead, and one waits behind it", func() bool {
		return s.text("SELECT concat(count(dead_at), ' of ', count(*)) FROM relay.parked") == "1 of 2"
	})
	dead := s.text("SELECT id::text FROM relay.parked WHERE dead_at IS NOT NULL")
	behind := s.text("SELECT id::text FROM relay.parked WHERE dead_at IS NULL")
	s.relay("deliveries", "list", "--status", "DEAD").exits(0).quiet().says(dead, "DEAD", "its key waits")
	s.relay("deliveries", "list", "--status", "PENDING").exits(0).quiet().says(behind, "waits for an earlier one of its key")
	s.relay("deliveries", "discard", dead).exits(exitUsage).complains(dead, "never sent", sub, "add --yes")
	s.relay("deliveries", "discard", behind, "--yes").exits(exitFailed).complains("PENDING", "holds nothing up")
	recv.answer(http.StatusNoContent)
	s.relay("deliveries", "discard", dead, "--yes", "--wait", "20s").exits(0).quiet().says(dead, "discarded")
	s.eventually("the one behind it arrives", func() bool {
		return s.text("SELECT count(*)::text FROM relay.deliveries WHERE status = 'DELIVERED' AND id = $1::uuid", behind) == "1"
	})
	s.relay("deliveries", "show", dead).exits(0).quiet().says("CANCELLED", "discarded; http_5xx")
}

func TestSubscriptionsAdd_RefusesToHaltWhereThereIsNoOrder(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	add := []string{"subscriptions", "add", "--tenant", "acme", "--url", "https://a.example/x", "--event", "*"}
	s.relay(append(add, "--on-dead", "halt", "--ordering", "none")...).exits(exitUsage).complains("--ordering key")
	s.relay(append(add, "--on-dead", "stop")...).exits(exitUsage).complains("release or halt")
}
