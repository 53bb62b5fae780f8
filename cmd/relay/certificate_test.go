package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/test/authority"
)

// gate is an endpoint that looks at clients' certificates, and notes who brings what.
type gate struct {
	url       string
	authority *authority.Authority

	mu   sync.Mutex
	seen map[string][]string // path to names of certificates, "" for none
}

func newGate(t *testing.T, version uint16) *gate {
	t.Helper()
	g := &gate{authority: authority.New(t, "gate"), seen: make(map[string][]string)}
	g.url = g.authority.Server(t, tls.VerifyClientCertIfGiven, version, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		g.mu.Lock()
		defer g.mu.Unlock()
		who := authority.Shown(r)
		g.seen[r.URL.Path] = append(g.seen[r.URL.Path], who)
		if r.URL.Path != "/nobody" && who == "" {
			w.WriteHeader(http.StatusForbidden)
		}
	}).URL
	return g
}

func (g *gate) who(path string) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.seen[path])
}

// stage has a database, and trusts the gate.
func (g *gate) stage(t *testing.T) *stage {
	t.Helper()
	s := newStage(t)
	s.set = append(s.set, "--set", "egress.ca_file="+write(t, "ca.pem", authority.PEM("CERTIFICATE", g.authority.Certificate.Raw)))
	return s
}

// add adds a subscription with a certificate, none for "", and returns its id and the key.
func (g *gate) add(s *stage, path, name string) (id, key string) {
	s.t.Helper()
	args := []string{"subscriptions", "add", "--tenant", "acme", "--url", g.url + path, "--event", "*", "--secret", testSecret}
	if name != "" {
		var certificate string
		certificate, key = g.authority.Client(s.t, name)
		args = append(args, "--client-certificate", write(s.t, "c.pem", certificate), "--client-key", write(s.t, "k.pem", key))
	}
	return strings.TrimSpace(s.relay(args...).exits(0).quiet().out), key
}

// The whole way: each subscription is seen as itself by one host, whatever else goes there, before and after changes and reloads.
func TestClientCertificate_EachSubscriptionIsSeenAsItself(t *testing.T) {
	t.Parallel()
	for name, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGate(t, version)
			s := g.stage(t)
			s.set = append(s.set, "--set", "secrets.key_file="+keyFile(t))
			ada, adaKey := g.add(s, "/ada", "ada")
			_, bobKey := g.add(s, "/bob", "bob")
			g.add(s, "/nobody", "")
			d, log := s.startLogged("127.0.0.1:0")
			n := 0
			arrives := func(when string, want map[string]string) {
				t.Helper()
				n++
				s.commit("acme", fmt.Sprint("i", n))
				for path, who := range want {
					s.eventually(when+": an event comes to "+path, func() bool { return len(g.who(path)) >= n })
					if got := g.who(path); got[n-1] != who || len(got) != n {
						t.Errorf("%s: %s has seen %q, want %q as the last of %d", when, path, got, who, n)
					}
				}
			}
			arrives("at first", map[string]string{"/ada": "ada", "/bob": "bob", "/nobody": ""})
			arrives("again", map[string]string{"/ada": "ada", "/bob": "bob", "/nobody": ""})

			certificate, carolKey := g.authority.Client(t, "carol")
			token := strings.TrimSpace(s.relay("token", "create", "--tenant", "acme").exits(0).out)
			var answers bytes.Buffer
			patch := func(certificate, key string) {
				t.Helper()
				body, err := json.Marshal(map[string]any{"client_certificate": map[string]string{"certificate": certificate, "key": key}})
				if err != nil {
					t.Fatal(err)
				}
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, "http://"+d.APIAddr()+"/api/v1/tenant/webhooks/subscriptions/"+ada, bytes.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Authorization", "Bearer "+token)
				req.Header.Set("Content-Type", "application/json")
				resp, err := http.DefaultTransport.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = resp.Body.Close() }()
				if _, err := io.Copy(&answers, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
					t.Fatalf("status %d, %v: %s", resp.StatusCode, err, answers.String())
				}
			}
			patch(certificate, carolKey)
			arrives("after a change", map[string]string{"/ada": "carol", "/bob": "bob", "/nobody": ""})
			for range 20 {
				if err := d.Reload(); err != nil {
					t.Fatal(err)
				}
			}
			arrives("after reloads", map[string]string{"/ada": "carol", "/bob": "bob", "/nobody": ""})
			patch("", "")
			patch(certificate, carolKey)
			arrives("taken away and given again", map[string]string{"/ada": "carol", "/bob": "bob", "/nobody": ""})

			s.relay("subscriptions", "test", ada).exits(0).says("HTTP 200")
			if got := g.who("/ada"); got[len(got)-1] != "carol" {
				t.Errorf("a test event comes as %q", got[len(got)-1])
			}
			var shown bytes.Buffer
			for _, args := range []string{"subscriptions list", "subscriptions list -o json", "subscriptions show " + ada, "subscriptions show " + ada + " -o json",
				"subscriptions disable " + ada + " -o json", "deliveries list -o json", "config print", "status -o json", "secrets seal"} {
				r := s.relay(strings.Fields(args)...)
				fmt.Fprintf(&shown, "relay %s: %s%s", r.args, r.out, r.err)
			}
			resp, err := http.Get("http://" + d.Addr() + "/metrics") //nolint:noctx // a test
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			if _, err := io.Copy(&shown, resp.Body); err != nil {
				t.Fatal(err)
			}
			cfg, err := s.config()
			if err != nil {
				t.Fatal(err)
			}
			if err := config.Print(&shown, cfg); err != nil {
				t.Fatal(err)
			}
			rows := s.text("SELECT concat((SELECT string_agg(s::text, ' ') FROM relay.subscriptions s), (SELECT string_agg(c::text, ' ') FROM relay.changes c))")
			all := shown.String() + log.String() + answers.String() + rows
			if !strings.Contains(all, "CN=carol") {
				t.Error("nothing shows the certificate: this test looks at too little")
			}
			for _, key := range []string{adaKey, bobKey, carolKey} {
				for line := range strings.Lines(key) {
					if line = strings.TrimSpace(line); !strings.HasPrefix(line, "-----END") && strings.Contains(all, line) {
						t.Errorf("a key is shown: %s", line)
					}
				}
			}
		})
	}
}

func TestSubscriptionsAdd_TakesAClientCertificate(t *testing.T) {
	t.Parallel()
	g := newGate(t, 0)
	s := g.stage(t)
	id, _ := g.add(s, "/x", "ada")
	s.relay("subscriptions", "show", id).exits(0).says("client certificate", "CN=ada, valid until ", "SHA-256 ")
	var one struct {
		Certificate *deliver.Certificate `json:"client_certificate"`
	}
	s.relay("subscriptions", "show", id, "-o", "json").exits(0).decode(&one)
	if c := one.Certificate; c == nil || c.Subject != "CN=ada" || len(c.Fingerprint) != 64 || time.Until(c.NotAfter) < 300*24*time.Hour {
		t.Errorf("got %+v", c)
	}
	s.relay("subscriptions", "test", id).exits(0)
	bare, _ := g.add(s, "/x", "")
	s.relay("subscriptions", "show", bare, "-o", "json").exits(0).says(`"client_certificate": null`)
	s.relay("subscriptions", "test", bare).exits(exitFailed).complains("http_4xx")
	if got := fmt.Sprintf("%q", g.who("/x")); got != `["ada" ""]` {
		t.Errorf("seen as %s", got)
	}

	certificate, key := g.authority.Client(t, "ada")
	_, other := g.authority.Client(t, "bob")
	good, goodKey, otherKey := write(t, "c.pem", certificate), write(t, "k.pem", key), write(t, "o.pem", other)
	soon, soonKey := g.authority.Issue(t, &x509.Certificate{NotAfter: time.Now().Add(24 * time.Hour)})
	add := func(url string, args ...string) result {
		return s.relay(append([]string{"subscriptions", "add", "--tenant", "acme", "--url", url, "--event", "*", "--secret", testSecret}, args...)...)
	}
	for _, c := range []struct{ url, certificate, key, says string }{
		{g.url, good, "", "belong together"}, {g.url, "", goodKey, "belong together"}, {g.url, good, otherKey, "--client-key " + otherKey + ": it is not the key"},
		{g.url, goodKey, good, "--client-certificate " + goodKey}, {strings.Replace(g.url, "https", "http", 1), good, goodKey, "--client-certificate: a client certificate needs https"},
	} {
		r := add(c.url, "--client-certificate", c.certificate, "--client-key", c.key).exits(exitUsage).complains(c.says)
		if strings.Contains(r.err, "BEGIN") {
			t.Errorf("it repeats what it was given: %s", r.err)
		}
	}
	add(g.url, "--client-certificate", good+".none", "--client-key", goodKey).exits(exitFailed).complains("read client certificate")
	add(g.url, "--client-certificate", write(t, "s.pem", soon), "--client-key", write(t, "sk.pem", soonKey)).exits(0).complains("warning: The client certificate ends at ")
}

// Neither reloads nor subscriptions that come and go leave goroutines behind.
func TestClientCertificate_LeavesNothingBehind(t *testing.T) {
	g := newGate(t, 0)
	s := g.stage(t)
	d := s.start()
	connections := func() int {
		var b bytes.Buffer
		if err := pprof.Lookup("goroutine").WriteTo(&b, 2); err != nil {
			t.Fatal(err)
		}
		return strings.Count(b.String(), "net/http.(*persistConn).readLoop")
	}
	n := 0
	for round := range 5 {
		path := fmt.Sprint("/", round)
		id, _ := g.add(s, path, path[1:])
		s.commit("acme", path)
		s.eventually("the event arrives", func() bool { return len(g.who(path)) > 0 })
		if err := d.Reload(); err != nil {
			t.Fatal(err)
		}
		s.commit("acme", path)
		s.eventually("one arrives after a reload", func() bool { return len(g.who(path)) > 1 })
		if round == 0 {
			n = connections()
		}
		s.relay("subscriptions", "remove", id, "--yes").exits(0)
		s.eventually("its connections are closed", func() bool { return connections() < n })
	}
}
