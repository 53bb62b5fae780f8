package webhook

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/egress"
)

func TestAttempt_TellsThePhasesOfANewConnectionAndNoneOfAnOldOne(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(5 * time.Millisecond)
		w.WriteHeader(http.StatusInternalServerError)
	}))
	t.Cleanup(s.Close)
	policy, err := egress.New(egress.Options{Allow: []string{"127.0.0.1"}, ConnectTimeout: 2 * time.Second,
		RootCAs: s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs})
	if err != nil {
		t.Fatal(err)
	}
	client := policy.Client(egress.TransportOptions{})
	t.Cleanup(client.CloseIdleConnections)
	p := &Poster{Transport: client.Transport, Timeout: 10 * time.Second}
	first := p.Attempt(context.Background(), mustRequest(t, s.URL))
	if ph := first.Phases; ph.Connect <= 0 || ph.TLS <= 0 || ph.FirstByte < 4000 || ph.DNS != 0 {
		t.Errorf("phases %+v of a new connection to an address", ph)
	}
	if want := strings.TrimPrefix(s.URL, "https://"); first.Address != want {
		t.Errorf("address %s, want %s", first.Address, want)
	}
	if sum := time.Duration(first.Phases.Connect+first.Phases.TLS+first.Phases.FirstByte) * time.Microsecond; sum > first.Duration {
		t.Errorf("phases of %s in an attempt of %s", sum, first.Duration)
	}
	second := p.Attempt(context.Background(), mustRequest(t, s.URL))
	if ph := second.Phases; ph.Connect != 0 || ph.TLS != 0 || ph.FirstByte < 4000 {
		t.Errorf("phases %+v of a connection that was open", ph)
	}
}

func TestAttempt_TellsWhichAddressItDialedInVain(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	out := mustPoster(t, 5*time.Second).Attempt(context.Background(), mustRequest(t, "http://"+addr))
	if out.Reason != deliver.ReasonConnect || out.Address != addr {
		t.Errorf("%+v, want the address %s", out, addr)
	}
}

func TestAttempt_KeepsTheFirstBytesOfAFailuresAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		want   string
	}{
		"failure":          {500, "no such order", "no such order"},
		"long failure":     {422, strings.Repeat("x", 100_000), strings.Repeat("x", 512)},
		"nothing":          {500, "", ""},
		"success":          {200, "thank you", ""},
		"redirect":         {302, "moved", "moved"},
		"as it came, raw":  {400, "\x00\xff", "\x00\xff"},
		"exactly so long":  {400, strings.Repeat("y", 512), strings.Repeat("y", 512)},
		"one byte too far": {400, strings.Repeat("y", 512) + "z", strings.Repeat("y", 512)},
	} {
		t.Run(name, func(t *testing.T) {
			url := mustServe(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			})
			out := mustPoster(t, 5*time.Second).Attempt(context.Background(), mustRequest(t, url))
			if out.StatusCode != c.status || out.Answer != c.want {
				t.Errorf("status %d, answer %.40q, want %.40q", out.StatusCode, out.Answer, c.want)
			}
			if (out.Address != "") != (c.status != 200) {
				t.Errorf("address %q", out.Address)
			}
		})
	}
}
