package backoffice_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outbox-relay/relay/examples/backoffice"
)

const links = "/api/v1/tenant/payments/links"

// openLink makes a link over 1500.00 EUR and returns its id.
func (s *shop) openLink(invoice string) string {
	s.t.Helper()
	return s.must(http.StatusCreated, "POST", links,
		fmt.Sprintf(`{"invoice_id":%q,"amount":"1500.00","currency":"EUR"}`, invoice)).text(s.t, "id")
}

func paid(link, payment string) string {
	return fmt.Sprintf(`{"link_id":%q,"result":"paid","payment_id":%q,"payment_method":"card","reference_number":"RF18"}`,
		link, payment)
}

func failed(link, payment string) string {
	return fmt.Sprintf(`{"link_id":%q,"result":"failed","payment_id":%q,"reason":"insufficient funds","error_code":"51"}`,
		link, payment)
}

// status of a row by its id, as text.
func (s *shop) status(table, column, id string) string {
	s.t.Helper()
	var status string
	err := s.pool.QueryRow(s.t.Context(),
		`SELECT status FROM backoffice.`+table+` WHERE `+column+`::text = $1`, id).Scan(&status)
	if err != nil {
		s.t.Fatal(err)
	}
	return status
}

func TestCreateLink_AnswersIDURLAndStatusAndEmitsNothing(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	a := s.must(http.StatusCreated, "POST", links,
		`{"invoice_id":"inv_1","amount":1500.00,"currency":"EUR","description":"Order 7"}`)
	id := a.text(t, "id")
	if a.text(t, "url") != backoffice.DefaultCheckoutURL+"/"+id || a.text(t, "status") != "open" {
		t.Fatalf("answered %v", a.body)
	}
	if got := s.must(http.StatusOK, "GET", a.header.Get("Location"), ""); got.text(t, "description") != "Order 7" {
		t.Fatalf("GET answered %v", got.body)
	}
	s.wantEvents()
}

func TestCreateLink_RefusesAPaidInvoiceAndAnotherAmount(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	link := s.openLink("inv_1")
	s.must(http.StatusConflict, "POST", links, `{"invoice_id":"inv_1","amount":"1500.01","currency":"EUR"}`)
	s.must(http.StatusConflict, "POST", links, `{"invoice_id":"inv_1","amount":"1500.00","currency":"USD"}`)
	s.callback(paid(link, "pay_1"))
	s.must(http.StatusConflict, "POST", links, `{"invoice_id":"inv_1","amount":"1500.00","currency":"EUR"}`)
	if n := s.count(`SELECT count(*) FROM backoffice.payment_links`); n != 1 {
		t.Fatalf("%d links, want 1", n)
	}
}

func TestCallback_PaysInvoiceAndEmitsPaymentReceived(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	link := s.openLink("inv_1")
	a := s.callback(paid(link, "pay_1"))
	if a.status != http.StatusOK || a.text(t, "status") != "paid" {
		t.Fatalf("answered %d %v", a.status, a.body)
	}
	if s.status("payment_links", "id", link) != "paid" || s.status("invoices", "id", "inv_1") != "paid" {
		t.Fatal("link and invoice are not paid")
	}
	e := s.wantEvents("payment.received")[0]
	if e.TenantID != acme || e.AggregateType != "payment" || e.AggregateID != "inv_1" {
		t.Fatalf("event %+v", e)
	}
	sameJSON(t, e.Payload, `{"payment_id":"pay_1","invoice_id":"inv_1","amount":"1500.00","currency":"EUR",
		"payment_method":"card","reference_number":"RF18"}`)
}

func TestCallback_FailsLinkAndEmitsPaymentFailed(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	link := s.openLink("inv_1")
	if a := s.callback(failed(link, "pay_1")); a.status != http.StatusOK || a.text(t, "status") != "failed" {
		t.Fatalf("answered %d %v", a.status, a.body)
	}
	if s.status("payment_links", "id", link) != "failed" || s.status("invoices", "id", "inv_1") != "open" {
		t.Fatal("the link must be failed, the invoice open")
	}
	e := s.wantEvents("payment.failed")[0]
	sameJSON(t, e.Payload, `{"payment_id":"pay_1","invoice_id":"inv_1","amount":"1500.00","currency":"EUR",
		"reason":"insufficient funds","error_code":"51"}`)

	// The next link of the same invoice can be paid, and its event has the same key.
	if a := s.callback(paid(s.openLink("inv_1"), "pay_2")); a.status != http.StatusOK {
		t.Fatalf("answered %d %v", a.status, a.body)
	}
	for _, e := range s.wantEvents("payment.failed", "payment.received") {
		if e.AggregateID != "inv_1" {
			t.Fatalf("event %+v", e)
		}
	}
}

func TestCallback_MakesOneEventOfRepeatedNews(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	for i, body := range []func(string, string) string{paid, failed} {
		link := s.openLink(fmt.Sprint("inv_", i))
		for range 3 {
			if a := s.callback(body(link, "pay_1")); a.status != http.StatusOK {
				t.Fatalf("answered %d %v", a.status, a.body)
			}
		}
	}
	s.wantEvents("payment.received", "payment.failed")
}

func TestCallback_RefusesToChangeASettledLink(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	a, b := s.openLink("inv_1"), s.openLink("inv_1")
	gone := s.openLink("inv_2")
	s.callback(paid(a, "pay_1"))
	s.callback(failed(gone, "pay_9"))
	for name, body := range map[string]string{
		"a paid link fails":                     failed(a, "pay_1"),
		"a paid link is paid by another":        paid(a, "pay_2"),
		"the invoice is paid by a second link":  paid(b, "pay_3"),
		"a failed link is paid":                 paid(gone, "pay_9"),
		"a failed link fails by other payments": failed(gone, "pay_10"),
	} {
		if got := s.callback(body); got.status != http.StatusConflict {
			t.Errorf("%s: answered %d %v", name, got.status, got.body)
		}
	}
	s.wantEvents("payment.received", "payment.failed")
	if s.status("payment_links", "id", b) != "open" {
		t.Fatal("the second link must still be open")
	}
}

func TestCallback_ConcurrentNewsMakesOneEvent(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	link := s.openLink("inv_1")
	bodies := []string{paid(link, "pay_1"), failed(link, "pay_1")}
	statuses := make([]int, 12)
	var wg sync.WaitGroup
	for i := range statuses {
		wg.Go(func() { statuses[i] = s.callback(bodies[i%2]).status })
	}
	wg.Wait()
	e := s.events()
	if len(e) != 1 {
		t.Fatalf("%d events of one link: %v", len(e), e)
	}
	// Whoever came first decided: its kind answers 200 each time, the other 409 each time.
	winner := s.status("payment_links", "id", link)
	for i, status := range statuses {
		want := http.StatusConflict
		if (winner == "paid") == (i%2 == 0) {
			want = http.StatusOK
		}
		if status != want {
			t.Errorf("request %d answered %d, want %d (the link is %s)", i, status, want, winner)
		}
	}
}

func TestCallback_TwoLinksOfOneInvoicePaidAtOnceMakeOnePayment(t *testing.T) {
	t.Parallel()
	inside, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s := newShopWith(t, backoffice.Options{FailAfterOutbox: func(*http.Request) error {
		once.Do(func() { close(inside); <-goOn })
		return nil
	}})
	a, b := paid(s.openLink("inv_1"), "pay_1"), paid(s.openLink("inv_1"), "pay_2")
	first, second := make(chan int, 1), make(chan int, 1)
	go func() { first <- s.callback(a).status }()
	<-inside
	// The first has written everything and not committed. Now comes the second; it must wait.
	go func() { second <- s.callback(b).status }()
	deadline := time.Now().Add(30 * time.Second)
	for s.count(`SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND wait_event_type = 'Lock'`) == 0 && len(second) == 0 {
		if time.Now().After(deadline) {
			t.Error("the second callback neither waits nor answers")
			break
		}
	}
	close(goOn)
	if one, two := <-first, <-second; one != http.StatusOK || two != http.StatusConflict {
		t.Errorf("answered %d and %d", one, two)
	}
	s.wantEvents("payment.received")
	if n := s.count(`SELECT count(*) FROM backoffice.payment_links WHERE status = 'paid'`); n != 1 {
		t.Fatalf("%d links are paid, want 1", n)
	}
}

func TestCallback_NeedsTheProvidersSignature(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	link := s.openLink("inv_1")
	body := paid(link, "pay_1")
	good := backoffice.SignCallback(providerSecret, []byte(body))
	for name, signature := range map[string]string{
		"none":              "",
		"not hex":           "zz" + good[2:],
		"cut short":         good[:62],
		"of another body":   backoffice.SignCallback(providerSecret, []byte(body+" ")),
		"of another secret": backoffice.SignCallback("guessed", []byte(body)),
		"of no secret":      backoffice.SignCallback("", []byte(body)),
	} {
		a := s.send("POST", "/api/v1/payments/callback", body, backoffice.SignatureHeader, signature)
		if a.status != http.StatusUnauthorized {
			t.Errorf("%s: answered %d", name, a.status)
		}
	}
	// A tenant's token is no signature.
	if a := s.as("POST", "/api/v1/payments/callback", body); a.status != http.StatusUnauthorized {
		t.Errorf("answered %d to a bearer token", a.status)
	}
	s.wantEvents()
}

func TestCallback_WithoutASecretNothingVerifies(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	link := s.openLink("inv_1")
	s.handler = backoffice.New(backoffice.Options{Pool: s.pool}).Handler()
	body := paid(link, "pay_1")
	a := s.send("POST", "/api/v1/payments/callback", body,
		backoffice.SignatureHeader, backoffice.SignCallback("", []byte(body)))
	if a.status != http.StatusUnauthorized {
		t.Fatalf("answered %d to the empty key", a.status)
	}
	s.wantEvents()
}

func TestCallback_RefusesUnknownLinksAndResults(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	link := s.openLink("inv_1")
	for body, want := range map[string]int{
		paid("7f9c24e5-2f3a-4f0a-9a53-7d3b3e0f8a11", "p"):                   http.StatusNotFound,
		paid("no-uuid", "p"):                                                http.StatusNotFound,
		`{"link_id":"` + link + `","result":"PAID","payment_id":"p"}`:       http.StatusUnprocessableEntity,
		`{"link_id":"` + link + `","result":"paid"}`:                        http.StatusUnprocessableEntity,
		`{"link_id":"` + link + `","result":"paid","payment_id":""}`:        http.StatusUnprocessableEntity,
		`{"link_id":"` + link + `","result":"paid","payment_id":"p","a":1}`: http.StatusUnprocessableEntity,
	} {
		if a := s.callback(body); a.status != want {
			t.Errorf("%s: answered %d %v, want %d", body, a.status, a.body, want)
		}
	}
	s.wantEvents()
}

func TestAmount_KeepsEveryDigit(t *testing.T) {
	t.Parallel()
	const sixty = "123456789012345678901234567890.123456789012345678901234567890"
	s := newShop(t)
	for i, c := range []struct{ sent, want string }{
		{`1500.00`, "1500.00"},
		{`"1500.00"`, "1500.00"},
		{`1500`, "1500"},
		{`0.10`, "0.10"},
		{`"` + sixty + `"`, sixty},
		{`123456789012345678901234567890.10`, "123456789012345678901234567890.10"},
		{`0.00000000000000000001`, "0.00000000000000000001"},
		{`99999999999999999.99`, "99999999999999999.99"},
	} {
		link := s.must(http.StatusCreated, "POST", links,
			fmt.Sprintf(`{"invoice_id":"inv_%d","amount":%s,"currency":"EUR"}`, i, c.sent))
		order := s.must(http.StatusCreated, "POST", orders,
			fmt.Sprintf(`{"order_number":"SO-%d","amount":%s,"currency":"EUR"}`, i, c.sent))
		if link.body["amount"] != c.want || order.body["amount"] != c.want {
			t.Errorf("%s was answered as %v and %v", c.sent, link.body["amount"], order.body["amount"])
		}
		s.callback(paid(link.text(t, "id"), "pay"))
		found := s.events()
		for _, e := range found[len(found)-2:] {
			if !strings.Contains(e.Payload, `"amount":"`+c.want+`"`) {
				t.Errorf("%s became the event %s", c.sent, e.Payload)
			}
		}
	}
}

func TestAmount_RefusesWhatIsNoPositiveDecimal(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	for _, amount := range []string{
		`0`, `"0"`, `0.00`, `-1`, `"-1"`, `"+1"`, `1e3`, `"1e3"`, `1E400`, `"007"`, `".5"`, `"5."`, `"1,50"`, `"1 500"`,
		`"NaN"`, `"Infinity"`, `"0x10"`, `""`, `" 1"`, `"1\n"`, `"\u0031"`, `true`, `[1]`, `{"a":1}`, `null`, `"١٢"`,
		strings.Repeat("9", 61), `"` + strings.Repeat("9", 61) + `"`, `1` + strings.Repeat("0", 5000),
	} {
		a := s.as("POST", links, `{"invoice_id":"inv_1","amount":`+amount+`,"currency":"EUR"}`)
		if a.status != http.StatusUnprocessableEntity || !strings.Contains(fmt.Sprint(a.body["errors"]), "/amount") {
			t.Errorf("%.80s: answered %d %v", amount, a.status, a.body)
		}
	}
	if n := s.count(`SELECT count(*) FROM backoffice.invoices`); n != 0 {
		t.Fatalf("%d invoices", n)
	}
}
