package dev

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/outbox-relay/relay/examples/backoffice"
)

// Names of the demonstration's tenant and secrets. They guard nothing: all of it
// listens on the loopback interface and is thrown away.
const (
	demoTenant     = "demo"
	demoToken      = "demo-token"
	providerSecret = "demo-provider-secret" // #nosec G101 -- of the demonstration alone
)

// traffic calls the example modules' routes as their users would.
type traffic struct {
	api  http.Handler
	say  func(format string, args ...any)
	step int
}

// Run makes a call each interval, until ctx ends.
func (t *traffic) Run(ctx context.Context, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if err := t.next(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// next goes through the modules in turn.
func (t *traffic) next(ctx context.Context) error {
	n := t.step
	t.step++
	var err error
	switch n % 3 {
	case 0:
		err = t.payment(ctx, n)
	case 1:
		err = t.lead(ctx, n)
	default:
		err = t.salesOrder(ctx, n)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (t *traffic) payment(ctx context.Context, n int) error {
	link, err := t.call(ctx, "POST", "/api/v1/tenant/payments/links", map[string]any{
		"invoice_id": fmt.Sprintf("inv_%d", 2000+n), "amount": fmt.Sprintf("%d.%02d", 10+rand.IntN(5000), rand.IntN(100)), "currency": "EUR"}) // #nosec G404 -- made-up amounts
	if err != nil {
		return err
	}
	result := map[string]any{"link_id": link, "result": "paid", "payment_id": fmt.Sprintf("pay_%d", 1000+n), "payment_method": "card"}
	if n%9 == 6 {
		result = map[string]any{"link_id": link, "result": "failed", "payment_id": fmt.Sprintf("pay_%d", 1000+n),
			"reason": "insufficient funds", "error_code": "51"}
	}
	_, err = t.call(ctx, "POST", "/api/v1/payments/callback", result)
	return err
}

func (t *traffic) lead(ctx context.Context, n int) error {
	name := fmt.Sprintf("Customer %d", n)
	id, err := t.call(ctx, "POST", "/api/v1/tenant/crm/leads", map[string]any{"name": name, "email": fmt.Sprintf("c%d@example.com", n)})
	if err != nil || n%2 == 0 {
		return err
	}
	_, err = t.call(ctx, "PUT", "/api/v1/tenant/crm/leads/"+id, map[string]any{"name": name + " Ltd", "email": fmt.Sprintf("c%d@example.com", n)})
	return err
}

func (t *traffic) salesOrder(ctx context.Context, n int) error {
	id, err := t.call(ctx, "POST", "/api/v1/tenant/sales_orders", map[string]any{
		"order_number": fmt.Sprintf("SO-%d", n), "amount": fmt.Sprintf("%d.50", 20+rand.IntN(900)), "currency": "EUR"}) // #nosec G404 -- made-up amounts
	if err != nil {
		return err
	}
	if n%2 == 0 {
		_, err = t.call(ctx, "PUT", "/api/v1/tenant/sales_orders/"+id+"/cancel", map[string]any{"reason": "changed their mind"})
		return err
	}
	_, err = t.call(ctx, "POST", "/api/v1/tenant/sales_orders/"+id+"/confirm", nil)
	return err
}

// call runs one request through the example's handler and returns the id of what
// it made.
func (t *traffic) call(ctx context.Context, method, path string, body any) (string, error) {
	var b []byte
	if body != nil {
		var err error
		if b, err = json.Marshal(body); err != nil {
			return "", err
		}
	}
	req := httptest.NewRequestWithContext(ctx, method, path, bytes.NewReader(b))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+demoToken)
	req.Header.Set(backoffice.SignatureHeader, backoffice.SignCallback(providerSecret, b))
	w := httptest.NewRecorder()
	t.api.ServeHTTP(w, req)
	answer, err := io.ReadAll(w.Result().Body)
	if err != nil {
		return "", err
	}
	if ctx.Err() != nil {
		return "", nil // the end came in between; what was rolled back is no event
	}
	t.say("%-4s %s -> %d", method, path, w.Code)
	if w.Code >= 300 {
		return "", fmt.Errorf("%s %s: %d %s", method, path, w.Code, answer)
	}
	var made struct{ ID string }
	_ = json.Unmarshal(answer, &made)
	return made.ID, nil
}
