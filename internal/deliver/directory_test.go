package deliver

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/egress"
	"github.com/outbox-relay/relay/internal/filter"
)

var matches = []struct {
	patterns string
	yes, no  []string
}{
	{"payment.received", []string{"payment.received"}, []string{"payment", "payment.received.x", "Payment.received", "payment.receive"}},
	{"payment.*", []string{"payment.received", "payment.a.b"}, []string{"payment", "payment.", "payments.received", "PAYMENT.received"}},
	{"*", []string{"payment.received", "x"}, nil},
	{"a.b.*", []string{"a.b.c", "a.b.c.d"}, []string{"a.b", "a.c.b"}},
	{"payment.* payment.received *", []string{"payment.received"}, nil},
	{"a.* b.*", []string{"a.x", "b.x"}, []string{"c.x"}},
	{"payment.*", nil, []string{"*", "payment"}},
}

func testSubscription(tenant string, patterns ...string) *Subscription {
	return &Subscription{ID: uuid.New(), TenantID: tenant, URL: "http://a.test/", Events: patterns,
		stored: newStored(testSecret, nil, nil, nil, nil), Ordering: OrderingKey, Active: true, UpdatedAt: time.Now()}
}

func TestDirectory_MatchesByPatternEachEndpointOnce(t *testing.T) {
	t.Parallel()
	for _, c := range matches {
		d := NewDirectory(anyURL, nil, nil)
		s := testSubscription("acme", strings.Fields(c.patterns)...)
		ep := d.put(s)
		for range 2 { // the second answer is remembered
			for _, typ := range c.yes {
				if got := d.Match("acme", typ); len(got) != 1 || got[0] != ep {
					t.Errorf("%q: %q has %d matches, want 1", c.patterns, typ, len(got))
				}
				if !s.Matches(typ) {
					t.Errorf("%q: Matches(%q) disagrees with the Directory", c.patterns, typ)
				}
				if got := d.Match("other", typ); len(got) != 0 {
					t.Errorf("%q matches another tenant", c.patterns)
				}
			}
			for _, typ := range c.no {
				if got := d.Match("acme", typ); len(got) != 0 {
					t.Errorf("%q: %q matches", c.patterns, typ)
				}
				if s.Matches(typ) {
					t.Errorf("%q: Matches(%q) disagrees with the Directory", c.patterns, typ)
				}
			}
		}
	}
}

func TestDirectory_FollowsChangesAndKeepsTheEndpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	id := w.subscribe("a.test")
	other := w.subscribe("b.test")
	d := NewDirectory(anyURL, nil, nil)
	changed, removed, err := d.Load(ctx, w.pool)
	if err != nil || len(changed) != 2 || len(removed) != 0 {
		t.Fatalf("load: %d changed, %d removed, %v", len(changed), len(removed), err)
	}
	if changed, _, _ = d.Load(ctx, w.pool); len(changed) != 0 {
		t.Errorf("%d changed although nothing did", len(changed))
	}
	ep := d.Get(id)
	if got := d.Match(testTenant, "x.y"); len(got) != 2 {
		t.Fatalf("%d matches, want 2", len(got))
	}

	w.exec("UPDATE relay.subscriptions SET events = '{x.*}', active = false WHERE id = $1", id) // without updated_at
	if got, _, err := d.Refresh(ctx, w.pool, id); err != nil || got != ep {
		t.Fatalf("refresh: %v, %v; want the same endpoint", got, err)
	}
	if got := d.Match(testTenant, "x.y"); !slices.Contains(got, ep) {
		t.Error("a disabled subscription does not match: its events would be lost")
	}
	if got := d.Match(testTenant, "z"); len(got) != 1 {
		t.Errorf("%d matches after the patterns changed, want 1", len(got))
	}
	if got, _, _ := d.Refresh(ctx, w.pool, id); got != nil {
		t.Error("changed although nothing did")
	}

	w.exec("DELETE FROM relay.subscriptions WHERE id = $1", id)
	if _, gone, err := d.Refresh(ctx, w.pool, id); err != nil || gone != ep {
		t.Fatalf("refresh: %v, %v; want it removed", gone, err)
	}
	if got := d.Match(testTenant, "x.y"); len(got) != 1 || d.Get(id) != nil || d.Len() != 1 || len(d.All()) != 1 {
		t.Error("the removed one is still there")
	}
	if _, gone, _ := d.Refresh(ctx, w.pool, id); gone != nil {
		t.Error("removed twice")
	}
	w.exec("DELETE FROM relay.subscriptions WHERE id = $1", other)
	if _, removed, err := d.Load(ctx, w.pool); err != nil || len(removed) != 1 {
		t.Errorf("load: %d removed, %v", len(removed), err)
	}
	if got := d.Match(testTenant, "x.y"); len(got) != 0 {
		t.Error("an empty directory matches")
	}
}

func TestDirectory_NeverMissesASubscriptionThatIsBeingChanged(t *testing.T) {
	t.Parallel()
	d := NewDirectory(anyURL, nil, nil)
	s := testSubscription("acme", "*")
	d.put(s)
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			next := *s
			next.Description = fmt.Sprint(i)
			d.mu.Lock()
			d.put(&next)
			d.mu.Unlock()
		}
	})
	for i := range 20000 {
		if len(d.Match("acme", fmt.Sprintf("t%d", i))) != 1 {
			t.Errorf("match %d found nothing", i)
			break
		}
	}
	close(stop)
	done.Wait()
}

func BenchmarkDirectory_Match(b *testing.B) {
	for _, n := range []int{10, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			d := NewDirectory(anyURL, nil, nil)
			for i := range n {
				d.put(testSubscription(fmt.Sprintf("tenant-%d", i/5), "payment.*", "sales_order.confirmed"))
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if len(d.Match(fmt.Sprintf("tenant-%d", i%(n/5)), "payment.received")) != 5 {
					b.Fatal("wrong number of matches")
				}
				i += 7919
			}
		})
	}
}

func TestDirectory_MakesNoAttemptAtAURLThatOtherHandsWrote(t *testing.T) {
	t.Parallel()
	strict, err := egress.New(egress.Options{RequireHTTPS: true})
	if err != nil {
		t.Fatal(err)
	}
	d := NewDirectory(strict.CheckURLOf, nil, nil)
	for url, want := range map[string]bool{
		"https://receiver.example/": true, "http://receiver.example/": false, "https://10.0.0.1/": false, "https://user:pw@receiver.example/": false,
		"https://receiver.example/#x": false, "https://receiver.example:22/": false, "https://receiver.example/\u202e": false, "": false,
	} {
		ep := d.put(&Subscription{ID: uuid.New(), TenantID: "acme", URL: url, Events: []string{"*"}, stored: newStored("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", nil, nil, nil, nil)})
		if fault := ep.spec.Load().fault; (fault == "") != want {
			t.Errorf("%q: fault %q", url, fault)
		}
	}
}

func TestDirectory_RoutesByFilter(t *testing.T) {
	t.Parallel()
	d := NewDirectory(anyURL, nil, nil)
	put := func(name, text string) {
		s := testSubscription("acme", "*")
		s.Description = name
		if text != "" {
			f, err := filter.Parse([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			s.SetFilter(f)
		}
		d.put(s)
	}
	put("all", "")
	put("euro", `{"currency":"EUR"}`)
	put("large", `{"amount":{"$gte":100}}`)
	for payload, want := range map[string]string{
		`{"currency":"EUR","amount":"250.00"}`: "all euro large",
		`{"currency":"EUR","amount":"25.00"}`:  "all euro",
		`{"currency":"USD","amount":"25.00"}`:  "all",
		``:                                     "all",
	} {
		var got []string
		for _, ep := range d.Route("acme", "payment.received", []byte(payload)) {
			got = append(got, ep.Subscription().Description)
		}
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("%s goes to %v, want %s", payload, got, want)
		}
	}
	if n := len(d.Match("acme", "payment.received")); n != 3 {
		t.Errorf("a filter changed what Match has: %d", n)
	}
}

// anyURL lets every URL through that can be parsed.
func anyURL(_, raw string) (*url.URL, error) { return url.Parse(raw) }
