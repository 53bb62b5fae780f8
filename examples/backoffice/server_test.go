package backoffice_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-relay/relay/examples/backoffice"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

// call is a request that changes something, as acme or as the provider.
type call struct {
	name, method, path, body string
	callback                 bool
}

// everyChange prepares rows and returns a request for each route that emits an event.
func (s *shop) everyChange() []call {
	s.t.Helper()
	lead := s.must(http.StatusCreated, "POST", leads, `{"name":"Ada"}`).text(s.t, "id")
	confirm, _ := s.order("SO-1")
	cancel, _ := s.order("SO-2")
	return []call{
		{name: "payment.received", body: paid(s.openLink("inv_1"), "pay_1"), callback: true},
		{name: "payment.failed", body: failed(s.openLink("inv_2"), "pay_2"), callback: true},
		{name: "customer.created", method: "POST", path: leads, body: `{"name":"Eve"}`},
		{name: "customer.updated", method: "PUT", path: leads + "/" + lead, body: `{"name":"Ada King"}`},
		{name: "sales_order.created", method: "POST", path: orders, body: `{"order_number":"SO-3","amount":1,"currency":"EUR"}`},
		{name: "sales_order.confirmed", method: "POST", path: confirm + "/confirm"},
		{name: "sales_order.cancelled", method: "PUT", path: cancel + "/cancel", body: `{"reason":"r"}`},
	}
}

func (s *shop) run(c call, headers ...string) answer {
	if c.callback {
		return s.send("POST", "/api/v1/payments/callback", c.body, append(headers,
			backoffice.SignatureHeader, backoffice.SignCallback(providerSecret, []byte(c.body)))...)
	}
	return s.send(c.method, c.path, c.body, append(headers, bearer(acmeToken)...)...)
}

// contents is everything that the business tables hold.
func (s *shop) contents() string {
	s.t.Helper()
	var all string
	err := s.pool.QueryRow(s.t.Context(), `
		SELECT concat_ws(E'\n',
			(SELECT string_agg(t::text, E'\n' ORDER BY t::text) FROM backoffice.invoices t),
			(SELECT string_agg(t::text, E'\n' ORDER BY t::text) FROM backoffice.payment_links t),
			(SELECT string_agg(t::text, E'\n' ORDER BY t::text) FROM backoffice.leads t),
			(SELECT string_agg(t::text, E'\n' ORDER BY t::text) FROM backoffice.sales_orders t))`).Scan(&all)
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

func TestFailureAfterOutboxInsert_RollsBackBusinessRowAndEvent(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	calls := s.everyChange()
	sound := s.handler
	inserted := 0
	s.handler = backoffice.New(backoffice.Options{
		Pool: s.pool, Tokens: map[string]string{acmeToken: acme}, ProviderSecret: providerSecret,
		FailAfterOutbox: func(*http.Request) error { inserted++; return errForced },
	}).Handler()
	before, events := s.contents(), len(s.events())
	for i, c := range calls {
		if a := s.run(c); a.status != http.StatusInternalServerError {
			t.Errorf("%s: answered %d %v", c.name, a.status, a.body)
		}
		if inserted != i+1 {
			t.Errorf("%s: failed before its outbox insert", c.name)
		}
	}
	if after := s.contents(); after != before {
		t.Fatalf("business rows\n%s\nbecame\n%s", before, after)
	}
	if n := len(s.events()); n != events {
		t.Fatalf("%d events became %d", events, n)
	}

	// The same requests without the fault: each row with its event.
	s.handler = sound
	for _, c := range calls {
		if a := s.run(c); a.status >= 300 {
			t.Fatalf("%s: answered %d %v", c.name, a.status, a.body)
		}
		found := s.events()
		if e := found[len(found)-1]; e.EventType != c.name {
			t.Fatalf("%s emitted %s", c.name, e.EventType)
		}
	}
	if s.contents() == before {
		t.Fatal("business rows did not change")
	}
}

func TestDemoFaults_FailTheRequestsThatAskForIt(t *testing.T) {
	t.Parallel()
	s := newShopWith(t, backoffice.Options{FailAfterOutbox: backoffice.DemoFaults})
	headers := append(bearer(acmeToken), backoffice.FaultHeader, backoffice.FaultAfterOutbox)
	a := s.send("POST", leads, `{"name":"Ada"}`, headers...)
	if a.status != http.StatusInternalServerError || !strings.Contains(a.text(t, "detail"), "rolled back") {
		t.Fatalf("answered %d %v", a.status, a.body)
	}
	s.wantEvents()
	s.must(http.StatusCreated, "POST", leads, `{"name":"Ada"}`)
	s.wantEvents("customer.created")
}

func TestLostOutbox_ChangesNothingAndTellsNothing(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	if _, err := s.pool.Exec(t.Context(), `ALTER TABLE outbox.events RENAME TO gone`); err != nil {
		t.Fatal(err)
	}
	a := s.as("POST", leads, `{"name":"Ada"}`)
	if a.status != http.StatusInternalServerError || strings.Contains(fmt.Sprint(a.body), "outbox") {
		t.Fatalf("answered %d %v", a.status, a.body)
	}
	if s.contents() != "" {
		t.Fatal("the lead is there without its event")
	}
}

func TestTenantRoutes_NeedAKnownToken(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	routes := map[string]string{
		links: "POST", links + "/x": "GET", leads: "POST", leads + "/x": "PUT", orders: "POST", orders + "/x": "GET",
		orders + "/x/confirm": "POST", orders + "/x/cancel": "PUT", orders + "/x/deliver": "POST",
	}
	for path, method := range routes {
		for _, authorization := range []string{
			"", "Bearer", "Bearer ", "Bearer wrong", "Basic " + acmeToken, acmeToken, "Bearer " + acmeToken + "x", "Bearer " + acme,
		} {
			a := s.send(method, path, "", "Authorization", authorization)
			if a.status != http.StatusUnauthorized || a.header.Get("WWW-Authenticate") != "Bearer" {
				t.Errorf("%s %s with %q answered %d", method, path, authorization, a.status)
			}
		}
	}
	if a := s.send("POST", leads, `{"name":"Ada"}`, "Authorization", "bearer "+acmeToken); a.status != http.StatusCreated {
		t.Errorf("the scheme's case matters: answered %d", a.status)
	}
}

func TestForeignIDs_LookExactlyLikeUnknownOnes(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	order, _ := s.order("SO-1")
	lead := leads + "/" + s.must(http.StatusCreated, "POST", leads, `{"name":"Ada"}`).text(t, "id")
	link := links + "/" + s.openLink("inv_1")
	before, events := s.contents(), len(s.events())
	const nobody = "7f9c24e5-2f3a-4f0a-9a53-7d3b3e0f8a11"
	for _, c := range []struct{ method, foreign, unknown, body string }{
		{"GET", link, links + "/" + nobody, ""},
		{"GET", lead, leads + "/" + nobody, ""},
		{"PUT", lead, leads + "/" + nobody, `{"name":"Eve"}`},
		{"GET", order, orders + "/" + nobody, ""},
		{"POST", order + "/confirm", orders + "/" + nobody + "/confirm", ""},
		{"PUT", order + "/cancel", orders + "/" + nobody + "/cancel", ""},
		{"POST", order + "/deliver", orders + "/" + nobody + "/deliver", ""},
	} {
		foreign := s.send(c.method, c.foreign, c.body, bearer(otherToken)...)
		unknown := s.send(c.method, c.unknown, c.body, bearer(otherToken)...)
		if foreign.status != http.StatusNotFound || fmt.Sprint(foreign) != fmt.Sprint(unknown) {
			t.Errorf("%s %s answered %v, an unknown id %v", c.method, c.foreign, foreign, unknown)
		}
	}
	// The same invoice number is another tenant's own invoice.
	a := s.send("POST", links, `{"invoice_id":"inv_1","amount":"2","currency":"USD"}`, bearer(otherToken)...)
	if a.status != http.StatusCreated {
		t.Errorf("answered %d %v", a.status, a.body)
	}
	if n := len(s.events()); n != events || !strings.HasPrefix(s.contents(), before[:20]) {
		t.Errorf("%d events became %d", events, n)
	}
}

func TestOddIDs_AreUnknown(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	for _, id := range []string{
		"x", "%00", "%ff", "1", "'%20OR%20'1'='1", "{7f9c24e5-2f3a-4f0a-9a53-7d3b3e0f8a11}", "%2e%2e%2f",
		"urn:uuid:7f9c24e5-2f3a-4f0a-9a53-7d3b3e0f8a11", "7f9c24e52f3a4f0a9a537d3b3e0f8a11", strings.Repeat("a", 5000),
	} {
		for _, path := range []string{links, leads, orders} {
			if a := s.as("GET", path+"/"+id, ""); a.status != http.StatusNotFound {
				t.Errorf("%s/%.60s answered %d", path, id, a.status)
			}
		}
	}
}

func TestBodies_AreReadStrictly(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	for name, c := range map[string]struct {
		body   string
		status int
		in     string
	}{
		"not JSON":           {`name=Ada`, 400, "JSON"},
		"an array":           {`[]`, 400, "object"},
		"null":               {`null`, 400, "object"},
		"cut off":            {`{"name":"Ada"`, 400, "JSON"},
		"two objects":        {`{"name":"Ada"}{}`, 400, "behind"},
		"rubbish behind":     {`{"name":"Ada"} x`, 400, "behind"},
		"a trailing comma":   {`{"name":"Ada",}`, 400, "JSON"},
		"a number as a name": {`{1:2}`, 400, "JSON"},
		"not UTF-8":          {"{\"name\":\"\xff\"}", 400, "UTF-8"},
		"too deep":           {`{"name":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`, 400, "JSON"},
		"an unknown member":  {`{"name":"Ada","age":36}`, 422, "/age"},
		"another case":       {`{"Name":"Ada"}`, 422, "/Name"},
		"a name twice":       {`{"name":"Ada","name":"Eve"}`, 422, "twice"},
		"null, then a name":  {`{"name":null,"name":"Eve"}`, 422, "twice"},
		"no name":            {`{}`, 422, "required"},
		"a null name":        {`{"name":null}`, 422, "required"},
		"an empty name":      {`{"name":""}`, 422, "required"},
		"a name of number":   {`{"name":7}`, 422, "a string"},
		"an odd pointer":     {`{"name":"Ada","a/b~c":1}`, 422, "/a~1b~0c"},
		"U+0000":             {`{"name":"A\u0000da"}`, 422, "U+0000"},
		"too long a name":    {`{"name":"` + strings.Repeat("a", 1001) + `"}`, 422, "1000"},
		"too large":          {`{"name":"Ada"` + strings.Repeat(" ", 1<<20) + `}`, 413, "1 MiB"},
	} {
		a := s.as("POST", leads, c.body)
		if a.status != c.status || !strings.Contains(fmt.Sprint(a.body), c.in) {
			t.Errorf("%s: answered %d %v, want %d with %q", name, a.status, a.body, c.status, c.in)
		}
		if got := a.header.Get("Content-Type"); got != "application/problem+json" {
			t.Errorf("%s: content type %q", name, got)
		}
	}
	a := s.send("POST", leads, `{"name":"Ada"}`, append(bearer(acmeToken), "Content-Type", "text/plain")...)
	if a.status != http.StatusUnsupportedMediaType {
		t.Errorf("text/plain: answered %d", a.status)
	}
	if s.contents() != "" {
		t.Fatal("a refused body left a row")
	}
	s.wantEvents()
}

func TestBodies_NameEveryRefusedMember(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	for body, pointers := range map[string][]string{
		`{"amount":"x","items_count":1.5,"more":1}`:                                 {"/amount", "/items_count", "/more", "/order_number", "/currency"},
		`{"order_number":"1","amount":1,"currency":"eur","items_count":-1}`:         {"/currency", "/items_count"},
		`{"order_number":"1","amount":1,"currency":"EUR","items_count":3000000000}`: {"/items_count"},
	} {
		a := s.as("POST", orders, body)
		if faults, _ := a.body["errors"].([]any); a.status != 422 || len(faults) != len(pointers) {
			t.Errorf("%s: answered %d %v", body, a.status, a.body)
		}
		for _, pointer := range pointers {
			if !strings.Contains(fmt.Sprint(a.body["errors"]), "pointer:"+pointer) {
				t.Errorf("%s: %s is not named in %v", body, pointer, a.body["errors"])
			}
		}
	}
	for _, id := range []string{`"a\nb"`, `"` + strings.Repeat("a", 256) + `"`} {
		if a := s.as("POST", links, `{"invoice_id":`+id+`,"amount":1,"currency":"EUR"}`); a.status != 422 {
			t.Errorf("invoice_id %s: answered %d", id, a.status)
		}
	}
}

func TestUnknownPathsAndMethods_AnswerProblems(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	if a := s.as("GET", "/api/v1/tenant", ""); a.status != 404 || a.body["title"] != "Not Found" {
		t.Errorf("answered %d %v", a.status, a.body)
	}
	for path, allow := range map[string]string{leads + "/x": "GET, PUT", leads: "POST", "/api/v1/payments/callback": "POST"} {
		if a := s.as("DELETE", path, ""); a.status != 405 || a.header.Get("Allow") != allow {
			t.Errorf("DELETE %s answered %d, Allow %q", path, a.status, a.header.Get("Allow"))
		}
	}
}

func TestMigrate_RunsAgainAndAtOnceAndKeepsRows(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), pgtest.NewDatabase(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	migrateAtOnce := func() {
		t.Helper()
		errs := make([]error, 4)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { errs[i] = backoffice.Migrate(t.Context(), pool) })
		}
		wg.Wait()
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	migrateAtOnce()
	if _, err := pool.Exec(t.Context(), `INSERT INTO backoffice.leads (tenant_id, name) VALUES ('t', 'Ada')`); err != nil {
		t.Fatal(err)
	}
	migrateAtOnce()
	s := &shop{t: t, pool: pool}
	if n := s.count(`SELECT count(*) FROM backoffice.leads`); n != 1 {
		t.Fatalf("%d leads, want 1", n)
	}
	if err := backoffice.CheckOutbox(t.Context(), pool); err != backoffice.ErrNoOutbox {
		t.Fatalf("CheckOutbox says %v on a database without an outbox", err)
	}
}

func TestWriterRole_NeedsInsertAndExecuteAlone(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	role := "writer_" + strings.ReplaceAll(s.pool.Config().ConnConfig.Database, "-", "_")
	for _, sql := range []string{
		`CREATE ROLE ` + role,
		`GRANT USAGE ON SCHEMA outbox, backoffice TO ` + role,
		`GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA backoffice TO ` + role,
		`GRANT INSERT ON outbox.events TO ` + role,
		`GRANT EXECUTE ON FUNCTION outbox.sales_order_cancelled TO ` + role,
	} {
		if _, err := s.pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	config := s.pool.Config()
	config.ConnConfig.RuntimeParams["role"] = role
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	defer func() {
		pool.Close()
		if _, err := s.pool.Exec(s.t.Context(), `DROP OWNED BY `+role+`; DROP ROLE `+role); err != nil {
			t.Error(err)
		}
	}()
	s.handler = backoffice.New(backoffice.Options{
		Pool: pool, Tokens: map[string]string{acmeToken: acme}, ProviderSecret: providerSecret,
	}).Handler()
	for _, c := range s.everyChange() {
		if a := s.run(c); a.status >= 300 {
			t.Errorf("%s: answered %d %v", c.name, a.status, a.body)
		}
	}
}
