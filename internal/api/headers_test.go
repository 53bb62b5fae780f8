package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/token"
)

func TestHeaders_AreKeptLikeSecrets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	a := w.call("POST", "/subscriptions", acme, `{"url":"https://h.example.com","event":"*","headers":[{"name":"x-api-key","value":"CANARY-1"}],
		"auth":{"type":"basic","username":"ada","password":"CANARY-2"}}`)
	var c Created
	if a.into(t, &c); a.Status != http.StatusCreated || fmt.Sprint(c.HeaderNames) != "[X-Api-Key Authorization]" {
		t.Fatalf("status %d, %s", a.Status, a.Text)
	}
	path := "/subscriptions/" + c.ID.String()
	header := func() http.Header {
		t.Helper()
		sub, err := deliver.Subscriptions{DB: w.db}.Get(t.Context(), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		h, err := sub.Header()
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	if h := header(); h.Get("X-Api-Key") != "CANARY-1" || h.Get("Authorization") != "Basic YWRhOkNBTkFSWS0y" {
		t.Errorf("%v", h)
	}
	for _, step := range []struct{ body, want string }{
		{`{"auth":{"type":"bearer","token":"CANARY-3"}}`, "map[Authorization:[Bearer CANARY-3] X-Api-Key:[CANARY-1]]"},
		{`{"description":"x"}`, "map[Authorization:[Bearer CANARY-3] X-Api-Key:[CANARY-1]]"},
		{`{"headers":[{"name":"X-B","value":"CANARY-4"}]}`, "map[Authorization:[Bearer CANARY-3] X-B:[CANARY-4]]"},
		{`{"auth":{"type":"none"}}`, "map[X-B:[CANARY-4]]"},
		{`{"headers":[]}`, "map[]"},
	} {
		if a := w.call("PATCH", path, acme, step.body); a.Status != 200 || strings.Contains(a.Text, "CANARY") {
			t.Errorf("%s: status %d, %s", step.body, a.Status, a.Text)
		}
		if got := fmt.Sprint(header()); got != step.want {
			t.Errorf("after %s: %s, want %s", step.body, got, step.want)
		}
	}
	for body, pointer := range map[string]string{
		`{"headers":[{"name":"X-A","value":"v"},{"name":"Host","value":"CANARY"}]}`:                        "/headers/1",
		`{"headers":[{"name":"Authorization","value":"CANARY"}]}`:                                          "/headers/0/name",
		`{"headers":[{"name":"X-A","value":"CANARY\r\nX-B: c"}]}`:                                          "/headers/0",
		`{"headers":[{"name":"X-A"}]}`:                                                                     "/headers/0",
		`{"headers":[{"name":"X-A","value":"v","other":1}]}`:                                               "/headers/0/other",
		`{"auth":{"type":"bearer"}}`:                                                                       "/auth/token",
		`{"auth":{"type":"basic","password":"CANARY"}}`:                                                    "/auth/username",
		`{"auth":{"type":"basic","username":"a:b","password":"CANARY"}}`:                                   "/auth/username",
		`{"auth":{"type":"digest"}}`:                                                                       "/auth/type",
		`{"auth":{"type":"bearer","token":"CANARY\u0000"}}`:                                                "/auth",
		`{"headers":[` + strings.TrimSuffix(strings.Repeat(`{"name":"X-A","value":"v"},`, 21), ",") + `]}`: "/headers",
	} {
		a := w.call("PATCH", path, acme, body)
		found := false
		if a.Status == 422 {
			for _, f := range a.problem(t).Errors {
				found = found || f.Pointer == pointer
			}
		}
		if !found || strings.Contains(a.Text, "CANARY") {
			t.Errorf("%.100s: status %d, %s; want the field %s", body, a.Status, a.Text, pointer)
		}
	}
	for what, text := range map[string]string{"changes": w.call("GET", "/changes", acme, nil).Text, "log": w.logs.String(),
		"subscription": w.call("GET", path, acme, nil).Text, "creation": a.Text} {
		if strings.Contains(text, "CANARY") {
			t.Errorf("%s shows a header: %s", what, text)
		}
	}
}
