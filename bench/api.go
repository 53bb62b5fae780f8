package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// apiDays is the time over which the deliveries are spread, a partition each day.
const apiDays = 30

// apiCalls is how often each call is made, after a tenth as many that are not counted.
const apiCalls = 200

// apiSubscription is one of those that share the deliveries.
const apiSubscription = "00000000-0000-7000-8000-000000000042"

// apiFill writes one day's deliveries of one tenant, in the order of their ids, as the relay does. One of a hundred is dead,
// 100 subscriptions and 10,000 keys share them. The numbers of each subscription's go on behind $3.
const apiFill = `
INSERT INTO relay.deliveries (id, created_at, tenant_id, subscription_id, event_id, event_type, aggregate_type, aggregate_id, commit_lsn,
       row_index, status, attempts, last_error, last_status, duration_us, ended_at, sequence, mark)
SELECT (lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(h, 1, 3) || '8' || substr(h, 4, 15))::uuid,
       at, 't0', ('00000000-0000-7000-8000-' || lpad((n % 100)::text, 12, '0'))::uuid, ('00000000-0000-7000-9000-' || substr(h, 1, 12))::uuid,
       (ARRAY['payment.received', 'payment.failed', 'customer.updated', 'sales_order.created'])[1 + n % 4], 'payment', 'inv_' || n % 10000,
       '0/0', 0, CASE WHEN n % 100 = 7 THEN 'DEAD' ELSE 'DELIVERED' END, 1, NULL, 200, 1500, at + interval '2 ms',
       $3::bigint + n / 100 + 1, CASE WHEN ($3::bigint + n / 100 + 1) % 64 = 0 THEN $3::bigint + n / 100 + 1 END
  FROM (SELECT n, md5(n::text) AS h, $1::timestamptz + n * (interval '1 day' / $2::bigint) AS at FROM generate_series(0, $2::bigint - 1) AS n) AS r`

// api measures the calls of tenants over a long list of deliveries, while the relay runs.
func (b *bench) api(ctx context.Context, _ []path) (err error) {
	if err := b.freshRelay(ctx); err != nil {
		return err
	}
	if err := b.fillDeliveries(ctx); err != nil {
		return fmt.Errorf("write deliveries: %w", err)
	}
	out, err := exec.CommandContext(ctx, b.binary(), "token", "create", "--tenant", "t0", "--database-url", b.cluster.URL("relay")).Output()
	if err != nil {
		return fmt.Errorf("create a token: %w", err)
	}
	proc, err := b.spawnRelay("api:\n  token_rate: 0\n  address_rate: 0\n  max_subscriptions: 0\n  write_rate: 0\n")
	if err != nil {
		return err
	}
	stop := sync.OnceValue(proc.stop)
	defer func() { err = errors.Join(err, stop()) }()
	if err := b.ready(ctx, proc); err != nil {
		return err
	}
	c := &apiClient{base: "http://" + b.listen + "/api/v1/tenant/webhooks", token: strings.TrimSpace(string(out))}
	var first struct {
		Items []struct{ ID string }
	}
	if err := c.get(ctx, "/deliveries?limit=200", &first); err != nil {
		return err
	}
	middle := url.QueryEscape(time.Now().Add(-apiDays / 2 * 24 * time.Hour).Format(time.RFC3339))
	numbered := b.deliveries / 100
	for _, call := range []struct {
		name string
		do   func(i int) error
	}{
		{"list", c.getter(ctx, "/deliveries")},
		{"list, a page in the middle", c.getter(ctx, "/deliveries?to="+middle)},
		{"list, dead", c.getter(ctx, "/deliveries?status=DEAD")},
		{"list, one event type", c.getter(ctx, "/deliveries?event=payment.failed")},
		{"list, one subscription", c.getter(ctx, "/deliveries?subscription="+apiSubscription)},
		{"list, one aggregate of 10,000", c.getter(ctx, "/deliveries?aggregate_id=inv_77&limit=5")},
		{"show one", func(i int) error { return c.get(ctx, "/deliveries/"+first.Items[i%len(first.Items)].ID, nil) }},
		{"events by number, 50 in the middle", func(i int) error {
			return c.get(ctx, fmt.Sprintf("/subscriptions/%s/events?after=%d", apiSubscription, numbered/2+i), nil)
		}},
		{"statistics", c.getter(ctx, "/subscriptions/"+apiSubscription+"/statistics")},
		{"create a subscription", func(i int) error {
			return c.call(ctx, http.MethodPost, "/subscriptions", map[string]any{"url": fmt.Sprintf("https://hooks.example.com/%d", i), "event": "*",
				"active": false}, nil)
		}},
		{"list subscriptions", c.getter(ctx, "/subscriptions")},
	} {
		say("api, %s ...", call.name)
		var took []time.Duration
		for i := range apiCalls + apiCalls/10 {
			began := time.Now()
			if err := call.do(i); err != nil {
				return fmt.Errorf("%s: %w", call.name, err)
			}
			if i >= apiCalls/10 {
				took = append(took, time.Since(began))
			}
		}
		slices.Sort(took)
		ms := func(share float64) float64 { return took[int(share*float64(len(took)-1))].Seconds() * 1000 }
		b.report.add(figure{Name: "api, " + call.name + ": p50", Unit: "ms", Relay: ms(0.5)})
		b.report.add(figure{Name: "api, " + call.name + ": p99", Unit: "ms", Relay: ms(0.99)})
	}
	return nil
}

// fillDeliveries writes the deliveries, while no relay runs.
func (b *bench) fillDeliveries(ctx context.Context) error {
	return with(ctx, b.cluster.URL("relay"), func(conn *pgx.Conn) error {
		today := time.Now().UTC().Truncate(24 * time.Hour)
		perDay := b.deliveries / apiDays
		for day := apiDays; day > 0; day-- {
			from := today.AddDate(0, 0, -day)
			say("api: writing %d deliveries of %s ...", perDay, from.Format(time.DateOnly))
			if _, err := conn.Exec(ctx, fmt.Sprintf("CREATE TABLE relay.deliveries_bench_%d PARTITION OF relay.deliveries FOR VALUES FROM ('%s') TO ('%s')",
				day, from.Format(time.RFC3339), from.AddDate(0, 0, 1).Format(time.RFC3339))); err != nil {
				return err
			}
			if _, err := conn.Exec(ctx, apiFill, from, perDay, int64(apiDays-day)*int64((perDay+99)/100)); err != nil {
				return err
			}
		}
		if _, err := conn.Exec(ctx, `WITH s AS (INSERT INTO relay.subscriptions (id, tenant_id, url, events, secret, active) VALUES ($1, 't0', 'https://hooks.example.com/42', '{*}', 'x', false))
			INSERT INTO relay.sequences VALUES ($1, $2, '{}', now())`, apiSubscription, int64(apiDays)*int64((perDay+99)/100)); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, "VACUUM (ANALYZE) relay.deliveries")
		return err
	})
}

// apiClient calls as one tenant.
type apiClient struct{ base, token string }

func (c *apiClient) getter(ctx context.Context, path string) func(int) error {
	return func(int) error { return c.get(ctx, path, nil) }
}

func (c *apiClient) get(ctx context.Context, path string, into any) error {
	return c.call(ctx, http.MethodGet, path, nil, into)
}

func (c *apiClient) call(ctx context.Context, method, path string, body, into any) error {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, content)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: status %d: %s", method, path, resp.StatusCode, text)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(text, into)
}
