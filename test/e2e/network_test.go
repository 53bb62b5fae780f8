package e2e_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/pgcluster"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

func TestRelay_NoticesAHalfOpenConnectionAndComesBack(t *testing.T) {
	t.Parallel()
	s := newStageOn(t, pgtest.NewCluster(t, pgcluster.Options{Settings: map[string]string{"wal_sender_timeout": "3s"}}))
	t.Cleanup(s.db.Close)
	p, through := newProxy(t, s.url)
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 10)
	r := s.start("RELAY_DATABASE_REPLICATION_URL="+through, "RELAY_CDC_SILENCE_TIMEOUT=5s", "RELAY_CDC_STATUS_INTERVAL=1s")
	l.add(0, 3)
	l.settle(patience, all)
	p.freeze()
	l.add(0, 3) // nobody tells the relay
	eventually(t, "it says that it is not ready", func() bool { return r.httpCode("/readyz") == http.StatusServiceUnavailable })
	eventually(t, "it is ready again, on a new connection", func() bool { return r.httpCode("/readyz") == http.StatusOK })
	l.settle(patience, all)
	if repeats := l.check(nil, all); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	l.books(all)
	r.terminate()
}

func TestRelay_MakesProgressOverASlowNetworkWithResets(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p, through := newProxy(t, s.url)
	p.delay = 50 * time.Millisecond // each way
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 20)
	r := s.start("RELAY_DATABASE_URL="+through, "RELAY_DATABASE_REPLICATION_URL="+through)
	l.write(2, 2_000)
	for n := 200; n <= 1_600; n += 200 {
		eventually(t, "rows have arrived", func() bool { return s.recv.count("all") >= n })
		p.resetOne()
	}
	l.wait()
	l.settle(patience, all)
	if repeats := l.check(nil, all); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	s.stopped = true // an answer to a commit may have been lost, as in a stop of PostgreSQL
	l.books(all)
	r.terminate()
}

func TestRelay_SaysWhatIsWrongWithAPooler(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	r := s.launch("RELAY_DATABASE_REPLICATION_URL=" + pooler(t))
	eventually(t, "it says that it is misconfigured", func() bool { return r.state() == "misconfigured" })
	if code := r.httpCode("/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("/readyz answers %d", code)
	}
	_, status := r.get("/status")
	if !strings.Contains(status, "database.replication_url") {
		t.Errorf("the status does not name the setting: %s", status)
	}
	r.terminate()
}
