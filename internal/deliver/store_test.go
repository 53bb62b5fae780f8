package deliver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
)

// record puts a delivery that ended into the table, committed so long ago.
func (w *world) record(ago time.Duration, tenant string, status Status) uuid.UUID {
	w.t.Helper()
	at := time.Now().Add(-ago)
	id := deliveryID(&Flight{EventID: uuid.New(), CommitTime: at}, uuid.New())
	if _, err := w.pool.Exec(w.t.Context(), `INSERT INTO relay.deliveries (id, created_at, tenant_id, subscription_id, event_id, event_type,
		aggregate_type, aggregate_id, commit_lsn, row_index, status, attempts, ended_at)
		VALUES ($1, $2, $3, $1, $1, 'payment.received', 'invoice', 'i', '0/1', 0, $4, 1, now())`, id, at, tenant, string(status)); err != nil {
		w.t.Fatal(err)
	}
	return id
}

// wait parks deliveries of one lane, committed so long ago; only the first is due.
func (w *world) wait(lane int64, tenant string, ago ...time.Duration) []uuid.UUID {
	w.t.Helper()
	var ids []uuid.UUID
	for i, a := range ago {
		at := time.Now().Add(-a)
		id := deliveryID(&Flight{EventID: uuid.New(), CommitTime: at}, uuid.New())
		var next *time.Time
		if i == 0 {
			next = &at
		}
		w.exec(`INSERT INTO relay.bodies (commit_lsn, event_id, tenant_id, event_type, aggregate_type, aggregate_id, committed_at, body)
			VALUES ($1::text::pg_lsn, $2, $3, 'payment.received', 'invoice', 'i', $4, '{}')`, fmt.Sprintf("0/%X", i+1), id, tenant, at)
		w.exec(`INSERT INTO relay.parked (subscription_id, commit_lsn, row_index, event_id, id, lane, next_attempt_at, created_at)
			VALUES ('00000000-0000-7000-8000-000000000001', $1::text::pg_lsn, 0, $2, $2, $3, $4, $5)`,
			fmt.Sprintf("0/%X", i+1), id, lane, next, at)
		ids = append(ids, id)
	}
	return ids
}

func idsOf(list []Record) []uuid.UUID {
	out := make([]uuid.UUID, len(list))
	for i := range list {
		out[i] = list[i].ID
	}
	return out
}

func TestRecords_AreListedNewestFirstHoweverOldTheyAre(t *testing.T) {
	w := newWorld(t)
	records := Records{DB: w.pool}
	var want []uuid.UUID
	for _, ago := range []time.Duration{-time.Hour, 0, 30 * time.Second, time.Minute, 7 * time.Minute, time.Hour, 9 * time.Hour, 80 * time.Hour,
		30 * 24 * time.Hour, 300 * 24 * time.Hour, 20 * 365 * 24 * time.Hour} {
		want = append(want, w.record(ago, "acme", StatusDelivered))
	}
	want = slices.Insert(want, 6, w.wait(7, "globex", 2*time.Hour)...)
	for limit := 1; limit <= len(want)+1; limit++ {
		got, err := records.List(t.Context(), Filter{Limit: limit})
		if err != nil {
			t.Fatal(err)
		}
		if n := min(limit, len(want)); !slices.Equal(idsOf(got), want[:n]) {
			t.Fatalf("limit %d: got %v, want %v", limit, idsOf(got), want[:n])
		}
	}
	// Page by page it is the same list.
	var paged []uuid.UUID
	for f := (Filter{Limit: 2}); ; f.Before = paged[len(paged)-1] {
		page, err := records.List(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		paged = append(paged, idsOf(page)...)
	}
	if !slices.Equal(paged, want) {
		t.Errorf("paged: got %v, want %v", paged, want)
	}
	for _, id := range want {
		if d, err := records.Get(t.Context(), id); err != nil || d.ID != id {
			t.Errorf("get %s: %v, %v", id, d, err)
		}
	}
	acme, err := records.List(t.Context(), Filter{TenantID: "acme", Limit: 100})
	if err != nil || len(acme) != len(want)-1 {
		t.Errorf("of acme: %d, %v", len(acme), err)
	}
}

func TestRecords_SayWhatWaitsForAnEarlierOne(t *testing.T) {
	w := newWorld(t)
	ids := w.wait(7, "acme", 3*time.Minute, 2*time.Minute, time.Minute)
	got, err := (Records{DB: w.pool}).List(t.Context(), Filter{Status: StatusPending, Limit: 10})
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(ids)
	if !slices.Equal(idsOf(got), ids) || !got[0].Waits || !got[1].Waits || got[2].Waits {
		t.Errorf("got %+v", got)
	}
}

func TestRecords_NameAnIDThatIsNone(t *testing.T) {
	w := newWorld(t)
	for _, id := range []uuid.UUID{uuid.Nil, uuid.Max, uuid.New()} {
		if _, err := (Records{DB: w.pool}).Get(t.Context(), id); !errors.Is(err, ErrNotFound) {
			t.Errorf("get %s: %v, want ErrNotFound", id, err)
		}
	}
}

func TestRecords_CountWhatIsParkedByTenant(t *testing.T) {
	w := newWorld(t)
	w.wait(7, "acme", time.Minute)
	w.wait(8, "globex", time.Minute, time.Minute)
	for limit, want := range map[int]string{1: "[{globex 2}]", 10: "[{globex 2} {acme 1}]"} {
		got, err := (Records{DB: w.pool}).ParkedByTenant(t.Context(), limit)
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("limit %d: got %v, %v, want %s", limit, got, err, want)
		}
	}
}

func TestInterval_CoversTheIDsOfItsTime(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678_900_000, time.UTC)
	id := deliveryID(&Flight{CommitTime: at}, uuid.New())
	if got := idTime(id); !got.Equal(at.Truncate(time.Millisecond)) {
		t.Errorf("time of the id is %s, want %s", got, at)
	}
	if first := FirstID(at); string(first[:]) > string(id[:]) {
		t.Errorf("first id %s is above %s", first, id)
	}
	if after := FirstID(at.Add(time.Millisecond)); string(after[:]) <= string(id[:]) {
		t.Errorf("first id of the next millisecond %s is not above %s", after, id)
	}
	if next := nextID(uuid.MustParse("00000000-0000-0000-00ff-ffffffffffff")); next.String() != "00000000-0000-0000-0100-000000000000" {
		t.Errorf("next id is %s", next)
	}
	if next := nextID(uuid.Max); next != uuid.Max {
		t.Errorf("after the last id comes %s", next)
	}
}

func TestSubscriptions_KeepWhatTheyAreGiven(t *testing.T) {
	w := newWorld(t)
	store := Subscriptions{DB: w.pool}
	sub := NewSubscription("acme", "https://hooks.example.com/x", []string{"payment.*", "customer.created"}, testSecret)
	sub.Description, sub.Ordering = "the books", OrderingNone
	if err := store.Add(t.Context(), sub); err != nil {
		t.Fatal(err)
	}
	if sub.ID == uuid.Nil || sub.CreatedAt.IsZero() {
		t.Errorf("the database's part is not filled in: %+v", sub)
	}
	other := NewSubscription("globex", "https://hooks.example.com/y", []string{"*"}, testSecret)
	if err := store.Add(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	reason, idle := "not yet", NewSubscription("initech", "https://hooks.example.com/z", []string{"*"}, testSecret)
	idle.Active, idle.DisabledReason = false, &reason
	var since *time.Time
	if err := store.Add(t.Context(), idle); err != nil || idle.Active || idle.DisabledReason == nil || *idle.DisabledReason != reason {
		t.Errorf("one that is not active: %+v, %v", idle, err)
	}
	if err := w.pool.QueryRow(t.Context(), "SELECT disabled_at FROM relay.subscriptions WHERE id = $1", idle.ID).Scan(&since); err != nil || since == nil {
		t.Errorf("disabled at %v, %v", since, err)
	}
	if err := store.Remove(t.Context(), idle.ID); err != nil {
		t.Fatal(err)
	}
	got, err := store.Get(t.Context(), sub.ID)
	if err != nil || got.Secret.Reveal() != testSecret || got.Description != "the books" || got.Ordering != OrderingNone || !got.Active {
		t.Errorf("got %+v, %v", got, err)
	}
	for tenant, want := range map[string]int{"": 2, "acme": 1, "nobody": 0} {
		if list, err := store.List(t.Context(), tenant); err != nil || len(list) != want {
			t.Errorf("of %q: %d subscriptions, %v, want %d", tenant, len(list), err, want)
		}
	}
	if err := store.SetActive(t.Context(), sub.ID, false, "moving"); err != nil {
		t.Fatal(err)
	}
	if got, err = store.Get(t.Context(), sub.ID); err != nil || got.Active || got.DisabledReason == nil || *got.DisabledReason != "moving" {
		t.Errorf("disabled: %+v, %v", got, err)
	}
	if err := store.SetActive(t.Context(), sub.ID, true, "ignored"); err != nil {
		t.Fatal(err)
	}
	if got, err = store.Get(t.Context(), sub.ID); err != nil || !got.Active || got.DisabledReason != nil {
		t.Errorf("enabled: %+v, %v", got, err)
	}
	if err := store.Remove(t.Context(), sub.ID); err != nil {
		t.Fatal(err)
	}
	_, missing := store.Get(t.Context(), sub.ID)
	for _, err := range []error{missing, store.Remove(t.Context(), sub.ID), store.SetActive(t.Context(), sub.ID, true, "")} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}
	}
}

func TestAwait_ReturnsWhatIsNotCarriedOut(t *testing.T) {
	w := newWorld(t)
	asked, err := Ask(t.Context(), w.pool, RequestRetryQuarantine, []string{"7", "8"})
	if err != nil || len(asked) != 2 || asked["7"] == asked["8"] {
		t.Fatalf("asked %v, %v", asked, err)
	}
	both := []int64{asked["7"], asked["8"]}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if left, err := Await(over, w.pool, both); err != nil || len(left) != 2 {
		t.Errorf("without patience: %v, %v", left, err)
	}
	if _, err := w.pool.Exec(t.Context(), "DELETE FROM relay.requests WHERE target = '8'"); err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if left, err := Await(soon, w.pool, both); err != nil || !slices.Equal(left, both[:1]) {
		t.Errorf("one is done: %v, %v", left, err)
	}
	if _, err := w.pool.Exec(t.Context(), "DELETE FROM relay.requests"); err != nil {
		t.Fatal(err)
	}
	if left, err := Await(t.Context(), w.pool, both); err != nil || len(left) != 0 {
		t.Errorf("all is done: %v, %v", left, err)
	}
	if _, err := Ask(t.Context(), w.pool, "make_coffee", []string{"1"}); err == nil {
		t.Error("a kind that is none was taken")
	}
}

func TestReplay_IsStuckWhenItsSubscriptionIsDisabledForLong(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sub := w.subscribe("a.test")
	w.replayOf(sub, 1)
	for _, c := range []struct {
		active         bool
		changed, moved string // ago
		disabled       string // "": by other hands, which do not say
		began          string
		want           bool
	}{
		{active: true, changed: "30 h", moved: "30 h"},
		{active: false, changed: "30 h", moved: "30 h", want: true},
		{active: false, changed: "20 h", moved: "30 h"},
		{active: false, changed: "30 h", moved: "20 h"},
		// Another change of the subscription does not begin the time anew, and nothing does without end.
		{active: false, changed: "1 h", disabled: "30 h", moved: "30 h", want: true},
		{active: false, changed: "1 h", disabled: "20 h", moved: "30 h"},
		{active: false, changed: "1 h", disabled: "1 h", moved: "1 h", began: "167 h"},
		{active: false, changed: "1 h", disabled: "1 h", moved: "1 h", began: "169 h", want: true},
		{active: true, changed: "1 h", moved: "1 h", began: "169 h"},
	} {
		w.exec("UPDATE relay.subscriptions SET active = $1, updated_at = now() - $2::text::interval, disabled_at = now() - nullif($3::text, '')::interval",
			c.active, c.changed, c.disabled)
		w.exec("UPDATE relay.replays SET updated_at = now() - $1::text::interval, created_at = now() - coalesce(nullif($2::text, ''), '0')::interval",
			c.moved, c.began)
		list, err := LoadRunningReplays(t.Context(), w.pool)
		if err != nil || len(list) != 1 || list[0].Stuck != c.want {
			t.Errorf("%+v: %+v, %v", c, list, err)
		}
	}
	w.exec("DELETE FROM relay.subscriptions")
	if list, err := LoadRunningReplays(t.Context(), w.pool); err != nil || len(list) != 1 || list[0].Stuck {
		t.Errorf("without its subscription: %+v, %v", list, err)
	}
}
