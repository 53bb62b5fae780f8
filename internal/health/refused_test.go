package health_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/health"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

// The server of these tests has no TLS, so with sslmode=prefer each connection is two attempts, and the second one counts.
func TestDiagnose_SaysWhyARealServerRefuses(t *testing.T) {
	u, err := url.Parse(pgtest.NewDatabase(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		user, path, mode string
		says, remedy     string
		tls              bool
	}{
		{u.User.Username(), "/no_such_database", "prefer", "there is no database no_such_database", "CREATE DATABASE no_such_database", false},
		{"no_such_role", u.Path, "prefer", "there is no role no_such_role", "CREATE ROLE no_such_role LOGIN", false},
		{u.User.Username(), u.Path, "require", "server refused TLS connection", "ssl = on", true},
	} {
		at := *u
		at.User, at.Path = url.User(tc.user), tc.path
		q := at.Query()
		q.Set("sslmode", tc.mode)
		at.RawQuery = q.Encode()
		conn, err := pgx.Connect(t.Context(), at.String())
		if err == nil {
			_ = conn.Close(t.Context())
			t.Errorf("%s: connected", &at)
			continue
		}
		c := health.Diagnose(err, health.Facts{})
		if c.State != health.Misconfigured || !strings.Contains(c.Sentence, tc.says) || !strings.Contains(c.Remedy, tc.remedy) {
			t.Errorf("%s: %+v", &at, c)
		}
		if got := strings.Contains(strings.ToLower(c.Sentence), "tls"); got != tc.tls {
			t.Errorf("%s: speaks of TLS is %v: %s", &at, got, c.Sentence)
		}
	}
}
