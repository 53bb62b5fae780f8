package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/token"
)

func TestTokenCreate_PrintsATokenOnceThatTheRelayTakes(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	d := s.start()
	write := strings.TrimSpace(s.relay("token", "create", "--tenant", "acme", "--description", "the shop").exits(0).quiet().out)
	read := strings.TrimSpace(s.relay("token", "create", "--tenant", "acme", "--read-only").exits(0).quiet().out)
	var made struct {
		token.Token
		Text string `json:"token"`
	}
	s.relay("token", "create", "--tenant", "acme", "--expires", "90d", "-o", "json").exits(0).quiet().decode(&made)
	if made.Role != token.RoleTenantWrite || *made.TenantID != "acme" || made.ExpiresAt == nil || !strings.HasPrefix(made.Text, "relay_") ||
		made.ExpiresAt.Sub(made.CreatedAt).Round(time.Hour) != 90*24*time.Hour {
		t.Errorf("%+v", made.Token)
	}
	status := func(method, bearer string) int {
		t.Helper()
		body := strings.NewReader(`{"url":"https://hooks.example.com/x","event":"payment.received"}`)
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+d.Addr()+"/api/v1/tenant/webhooks/subscriptions", body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+bearer)
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	for bearer, want := range map[string]int{write: 201, made.Text: 201, read: 403} {
		if got := status("POST", bearer); got != want {
			t.Errorf("status %d, want %d", got, want)
		}
	}
	list := s.relay("token", "list", "--tenant", "acme").exits(0).quiet().out
	for _, text := range []string{write, read, made.Text} {
		if strings.Contains(list, text[16:]) || strings.Contains(s.relay("token", "list", "-o", "json").exits(0).out, text[16:]) {
			t.Error("the list shows a token")
		}
	}
	if !strings.Contains(list, "tenant-read") || !strings.Contains(list, "the shop") || strings.Count(list, "good") != 3 {
		t.Errorf("%s", list)
	}
	s.relay("token", "revoke", made.ID.String()).exits(exitUsage).complains(made.ID.String(), "add --yes")
	if got := status("POST", made.Text); got != 201 {
		t.Errorf("status %d after a revocation without --yes", got)
	}
	s.relay("token", "revoke", made.ID.String(), "--yes").exits(0).quiet()
	began := time.Now()
	s.eventually("the relay refuses it", func() bool { return status("POST", made.Text) == 401 })
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("a revocation took %s", took)
	}
	s.relay("token", "revoke", "01a21045-e54f-72f6-866b-2636175a6f62", "--yes").exits(exitFailed).complains("no such token")
}

func TestTokenCreate_SaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"":                                        "--tenant or --operator is required",
		"--operator --tenant acme":                "--operator excludes",
		"--operator --read-only":                  "--operator excludes",
		"--tenant acme --expires soon":            `--expires "soon": expected a time span such as 90d or 12h`,
		"--tenant acme --expires 0d":              "expected a time span",
		"--tenant acme --expires -1h":             "expected a time span",
		"--tenant acme --expires 1.5y":            "expected a time span",
		"--tenant " + strings.Repeat("x", 256):    "must not be longer than 255 bytes",
		"--tenant acme --expires 99999999999999d": "expected a time span",
	} {
		call(t, append([]string{"token", "create"}, strings.Fields(args)...)...).exits(exitUsage).complains(want)
	}
	call(t, "token", "revoke").exits(exitUsage)
	call(t, "token", "revok", "x").exits(exitUsage).complains("did you mean `relay token revoke`?")
}

func TestStatus_ShowsAnOperatorsTokenWhereTheRelayWantsOne(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.startLogged(":0")
	s.relay("status").exits(exitUnhealthy)
	if r := s.relay("status"); !strings.Contains(r.out+r.err, "wants an operator's token") {
		t.Errorf("%s%s", r.out, r.err)
	}
	file := write(t, "operator.token", s.relay("token", "create", "--operator").exits(0).out)
	s.relay("status", "--token-file", file).exits(0).quiet()
	tenants := write(t, "tenant.token", s.relay("token", "create", "--tenant", "acme").exits(0).out)
	s.relay("status", "--token-file", tenants).exits(exitUnhealthy)
}
