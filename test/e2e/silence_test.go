package e2e_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
)

// While PostgreSQL decodes a large transaction on other tables it may send nothing for longer than cdc.silence_timeout. A new
// connection would make it begin again.
func TestRelay_WaitsWhileTheServerDecodesALargeTransaction(t *testing.T) {
	t.Parallel()
	s := newOwnStage(t, "RELAY_CDC_SILENCE_TIMEOUT=1s", "RELAY_CDC_STATUS_INTERVAL=300ms")
	s.exec("ALTER DATABASE " + pgx.Identifier{s.slot}.Sanitize() + " SET logical_decoding_work_mem = '64kB'")
	s.exec("CREATE TABLE elsewhere (n bigint)")
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 5)
	r := s.start()
	const said = "the server is decoding a large transaction"
	// How long that takes, the machine decides.
	for rows := 1_000_000; ; rows *= 2 {
		s.exec(fmt.Sprintf("INSERT INTO elsewhere SELECT generate_series(1, %d)", rows))
		l.add(0, 1)
		l.settle(patience, all)
		if r.log.Count(said) > 0 {
			break
		}
		if rows > 16_000_000 {
			t.Fatal("the server was never silent for a second")
		}
	}
	if n := r.log.Count("replication connection lost"); n != 0 {
		t.Errorf("the connection was given up %d times", n)
	}
	eventually(t, "it is ready again", func() bool { return r.httpCode("/readyz") == 200 })
	if repeats := l.check(nil, all); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	r.terminate()
}
