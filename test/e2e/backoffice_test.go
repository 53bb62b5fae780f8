package e2e_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/outbox-relay/relay/examples/backoffice"
)

const (
	shopToken      = "token-of-acme"
	providerSecret = "shared-with-the-provider"
)

// shop is the example service on the stage's database.
type shop struct {
	t   testing.TB
	url string
}

func newShop(s *stage) *shop {
	s.t.Helper()
	if err := backoffice.Migrate(s.t.Context(), s.db); err != nil {
		s.t.Fatal(err)
	}
	server := httptest.NewServer(backoffice.New(backoffice.Options{Pool: s.db, Tokens: map[string]string{shopToken: "acme"},
		ProviderSecret: providerSecret, FailAfterOutbox: backoffice.DemoFaults}).Handler())
	s.t.Cleanup(server.Close)
	return &shop{s.t, server.URL}
}

// call sends a request, expects the status, and returns the id in the answer if there is one.
func (p *shop) call(status int, method, path, body string, headers ...string) string {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.url+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+shopToken)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := probe.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	if resp.StatusCode != status {
		p.t.Fatalf("%s %s answers %d, want %d: %s", method, path, resp.StatusCode, status, text)
	}
	var answer struct {
		ID string `json:"id"`
	}
	_ = json.Unmarshal(text, &answer)
	return answer.ID
}

func TestRelay_DeliversTheEventsOfTheExampleService(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.subscribe("all", "acme", "*")
	s.subscribe("payments", "acme", "payment.*")
	p := newShop(s)
	r := s.start()

	const links, leads, orders = "/api/v1/tenant/payments/links", "/api/v1/tenant/crm/leads", "/api/v1/tenant/sales_orders"
	callback := func(status int, body string) {
		t.Helper()
		p.call(status, "POST", "/api/v1/payments/callback", body,
			backoffice.SignatureHeader, backoffice.SignCallback(providerSecret, []byte(body)))
	}
	link := p.call(http.StatusCreated, "POST", links, `{"invoice_id":"inv_1","amount":"1500.00","currency":"EUR"}`)
	callback(http.StatusOK, fmt.Sprintf(`{"link_id":%q,"result":"failed","payment_id":"pay_1","reason":"declined"}`, link))
	link = p.call(http.StatusCreated, "POST", links, `{"invoice_id":"inv_1","amount":"1500.00","currency":"EUR"}`)
	paid := fmt.Sprintf(`{"link_id":%q,"result":"paid","payment_id":"pay_2","payment_method":"card"}`, link)
	callback(http.StatusOK, paid)
	callback(http.StatusOK, paid) // the provider repeats itself

	lead := p.call(http.StatusCreated, "POST", leads, `{"name":"Ada","email":"ada@example.com"}`)
	p.call(http.StatusOK, "PUT", leads+"/"+lead, `{"name":"Ada L.","email":"ada@example.com"}`)
	p.call(http.StatusOK, "PUT", leads+"/"+lead, `{"name":"Ada L.","email":"ada@example.com"}`) // changes nothing

	order := p.call(http.StatusCreated, "POST", orders, `{"order_number":"SO-1","amount":"99.90","currency":"EUR"}`)
	p.call(http.StatusOK, "POST", orders+"/"+order+"/confirm", "")
	p.call(http.StatusOK, "PUT", orders+"/"+order+"/cancel", `{"reason":"changed their mind"}`)
	delivered := p.call(http.StatusCreated, "POST", orders, `{"order_number":"SO-2","amount":"10.00","currency":"EUR"}`)
	p.call(http.StatusOK, "POST", orders+"/"+delivered+"/confirm", "")
	p.call(http.StatusOK, "POST", orders+"/"+delivered+"/deliver", "")
	p.call(http.StatusConflict, "PUT", orders+"/"+delivered+"/cancel", `{"reason":"too late"}`)
	p.call(http.StatusInternalServerError, "POST", orders, `{"order_number":"SO-3","amount":"10.00","currency":"EUR"}`,
		backoffice.FaultHeader, backoffice.FaultAfterOutbox)
	if n := s.number("SELECT count(*) FROM backoffice.sales_orders"); n != 2 {
		t.Errorf("%d orders, want 2: the failed one must be rolled back", n)
	}
	p.call(http.StatusCreated, "POST", orders, `{"order_number":"SO-4","amount":"10.00","currency":"EUR"}`)

	want := []string{"payment.failed", "payment.received", "customer.created", "customer.updated",
		"sales_order.created", "sales_order.confirmed", "sales_order.cancelled",
		"sales_order.created", "sales_order.confirmed", "sales_order.created"}
	eventually(t, "the events arrive", func() bool { return s.recv.count("all") >= len(want) })
	eventually(t, "the payments arrive", func() bool { return s.recv.count("payments") >= 2 })
	r.terminate() // whatever else was on its way has come now
	byType := func(types []string) string { slices.Sort(types); return fmt.Sprint(types) }
	for name, want := range map[string][]string{"all": want, "payments": want[:2:2]} {
		var got []string
		for _, a := range s.recv.arrivals(name) {
			got = append(got, a.typ)
		}
		if byType(got) != byType(slices.Clone(want)) {
			t.Errorf("%s: %v arrived, want %v", name, got, want)
		}
	}
	var received struct{ Data map[string]any }
	for _, a := range s.recv.arrivals("payments") {
		if err := json.Unmarshal(a.raw, &received); err != nil {
			t.Fatal(err)
		}
	}
	if d := received.Data; d["payment_id"] != "pay_2" || d["invoice_id"] != "inv_1" || d["amount"] != "1500.00" || d["currency"] != "EUR" {
		t.Errorf("the last payment is %v", d)
	}
	if n := s.number("SELECT count(*) FROM relay.quarantine"); n != 0 {
		t.Errorf("%d rows are quarantined", n)
	}
	eventually(t, "each is on record", func() bool {
		return s.number("SELECT count(*) FROM relay.deliveries WHERE status = 'DELIVERED'") == len(want)+2
	})
}
