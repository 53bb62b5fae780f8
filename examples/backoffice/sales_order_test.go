package backoffice_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
)

const orders = "/api/v1/tenant/sales_orders"

func (s *shop) order(number string) (path, id string) {
	s.t.Helper()
	id = s.must(http.StatusCreated, "POST", orders, fmt.Sprintf(
		`{"order_number":%q,"amount":249.50,"currency":"EUR","customer_id":"c1","customer_name":"Ada","items_count":3}`,
		number)).text(s.t, "id")
	return orders + "/" + id, id
}

func TestOrder_EmitsItsThreeEventsUnderOneKey(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	path, id := s.order("SO-1")
	s.must(http.StatusOK, "POST", path+"/confirm", "")
	a := s.must(http.StatusOK, "PUT", path+"/cancel", `{"reason":"customer changed their mind"}`)
	if a.body["status"] != "cancelled" || a.body["cancel_reason"] != "customer changed their mind" {
		t.Fatalf("answered %v", a.body)
	}
	if got := s.must(http.StatusOK, "GET", path, ""); got.body["status"] != "cancelled" {
		t.Fatalf("GET answered %v", got.body)
	}
	found := s.wantEvents("sales_order.created", "sales_order.confirmed", "sales_order.cancelled")
	head := fmt.Sprintf(`"order_id":%q,"order_number":"SO-1"`, id)
	rest := head + `,"amount":"249.50","currency":"EUR","customer_id":"c1","customer_name":"Ada"`
	for i, want := range []string{
		`{` + rest + `,"items_count":3}`, `{` + rest + `}`, `{` + head + `,"reason":"customer changed their mind"}`,
	} {
		e := found[i]
		if e.TenantID != acme || e.AggregateType != "sales_order" || e.AggregateID != id {
			t.Fatalf("event %+v", e)
		}
		sameJSON(t, e.Payload, want)
	}
}

func TestOrder_RepeatedStepsAnswer200AndEmitOnce(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	path, _ := s.order("SO-1")
	for range 3 {
		s.must(http.StatusOK, "POST", path+"/confirm", "{}")
	}
	for range 3 {
		s.must(http.StatusOK, "PUT", path+"/cancel", "")
	}
	s.wantEvents("sales_order.created", "sales_order.confirmed", "sales_order.cancelled")
}

func TestOrder_RefusesStepsAgainstTheRules(t *testing.T) {
	t.Parallel()
	confirm, cancel, deliver := [2]string{"POST", "/confirm"}, [2]string{"PUT", "/cancel"}, [2]string{"POST", "/deliver"}
	for name, c := range map[string]struct {
		before  [][2]string
		refused [2]string
	}{
		"a delivered order is not cancelled":           {[][2]string{confirm, deliver}, cancel},
		"a delivered order is not confirmed":           {[][2]string{confirm, deliver}, confirm},
		"a cancelled order is not confirmed":           {[][2]string{cancel}, confirm},
		"a cancelled order is not delivered":           {[][2]string{confirm, cancel}, deliver},
		"an order is confirmed before it is delivered": {nil, deliver},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			path, id := s.order("SO-1")
			for _, step := range c.before {
				s.must(http.StatusOK, step[0], path+step[1], "")
			}
			events, status := len(s.events()), s.status("sales_orders", "id", id)
			s.must(http.StatusConflict, c.refused[0], path+c.refused[1], "")
			if n, now := len(s.events()), s.status("sales_orders", "id", id); n != events || now != status {
				t.Fatalf("%d events and %s became %d and %s", events, status, n, now)
			}
		})
	}
}

func TestOrder_NumberIsUniquePerTenant(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.order("SO-1")
	const body = `{"order_number":"SO-1","amount":1,"currency":"EUR"}`
	s.must(http.StatusConflict, "POST", orders, body)
	s.wantEvents("sales_order.created")
	if a := s.send("POST", orders, body, bearer(otherToken)...); a.status != http.StatusCreated {
		t.Fatalf("the other tenant was answered %d %v", a.status, a.body)
	}
}

func TestOrder_ConfirmedAndCancelledAtOnceKeepsOneHistory(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	path, id := s.order("SO-1")
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() { s.as("POST", path+"/confirm", "") })
		wg.Go(func() { s.as("PUT", path+"/cancel", "") })
	}
	wg.Wait()
	seen := make(map[string]int)
	for _, e := range s.events() {
		seen[e.EventType]++
	}
	if s.status("sales_orders", "id", id) != "cancelled" || seen["sales_order.cancelled"] != 1 ||
		seen["sales_order.confirmed"] > 1 {
		t.Fatalf("the order is %s with %v", s.status("sales_orders", "id", id), seen)
	}
}
