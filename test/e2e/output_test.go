package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outbox-relay/relay/test/output"
)

// Rows with every kind of text that confuses a log, a terminal or a metric.
func TestRelay_WritesOneLineARecordWhateverRowsHold(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.subscribe("all", "acme", "*")
	r := s.start("RELAY_LOG_LEVEL=debug", "RELAY_LOG_FORMAT=json")
	const types = 200
	for i, evil := range []string{"a\nb", "a\r\nb", "\x1b[31mred", "\u202egnp.exe", `"},{"level":"ERROR`, "a\u2028b", "x\x7f"} {
		s.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
			VALUES ($1, $1, $1, $1, json_build_object('x', $1::text))`, evil)
		s.insert("acme", evil, customer(fmt.Sprintf(`,"customer_email":"%d"`, i)))
	}
	s.exec(fmt.Sprintf(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
		SELECT 't' || g, 'made_up', g::text, 'made_up.type_' || g, '{}' FROM generate_series(1, %d) g`, types))
	// Names with control characters are no names.
	eventually(t, "the good rows arrive", func() bool { return s.recv.count("all") == 3 })
	eventually(t, "the others are kept", func() bool { return s.number("SELECT count(*) FROM relay.quarantine") == 4+7+types })
	_, metrics := r.get("/metrics")
	if strings.Contains(metrics, "made_up") {
		t.Error("event types of rows are in the metrics")
	}
	r.terminate()
	for line := range strings.Lines(r.log.String()) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil || record["level"] == nil {
			t.Errorf("no record: %q", line)
		}
		if strings.ContainsAny(line, "\x1b\x7f\r\u2028\u202e") {
			t.Errorf("raw control characters in %q", line)
		}
	}
}

func TestRelay_ShowsNoSecretAnywhere(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.exec("CREATE ROLE canary_" + s.slot + " LOGIN SUPERUSER PASSWORD 'canary-database'")
	url := strings.Replace(s.url, "postgres@", "canary_"+s.slot+":canary-database@", 1)
	t.Cleanup(func() {
		s.exec("REASSIGN OWNED BY canary_" + s.slot + " TO postgres")
		s.exec("DROP OWNED BY canary_" + s.slot)
		s.exec("DROP ROLE canary_" + s.slot)
	})
	keys := filepath.Join(t.TempDir(), "keys.json")
	keyset := s.command("secrets", "generate-key")
	if err := os.WriteFile(keys, []byte(keyset), 0o600); err != nil {
		t.Fatal(err)
	}
	_, sealing, _ := strings.Cut(keyset, `"value":"`)
	sealing, _, _ = strings.Cut(sealing, `"`)
	s.env = append(s.env, "RELAY_DATABASE_URL="+url, "RELAY_SECRETS_KEY_FILE="+keys)
	s.subscribe("all", "acme", "*")
	s.subscribe("failing", "acme", "*")
	s.recv.set("failing", behaviour{status: http.StatusInternalServerError})
	r := s.start("RELAY_LOG_LEVEL=debug")
	for i := range 5 {
		s.insert("acme", fmt.Sprint(i), customer(""))
	}
	eventually(t, "rows arrive", func() bool { return s.recv.count("all") == 5 })
	eventually(t, "others wait", func() bool { return s.number("SELECT count(*) FROM relay.parked") == 5 })
	s.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'canary_" + s.slot + "'")
	eventually(t, "it reconnects", func() bool { return r.log.Count("replication connection lost") > 0 })
	r.awaitReady()
	shown := map[string]string{
		"seal":       s.command("secrets", "seal"),
		"config":     s.command("config", "print"),
		"list":       s.command("subscriptions", "list", "-o", "json"),
		"deliveries": s.command("deliveries", "list", "-o", "json"),
	}
	for _, path := range []string{"/metrics", "/status", "/readyz?verbose", "/healthz"} {
		_, shown[path] = r.get(path)
	}
	r.terminate()
	shown["log"] = r.log.String()
	_, key, _ := strings.Cut(receiverSecret, "_")
	for where, text := range shown {
		if text == "" {
			t.Errorf("%s shows nothing", where)
		}
		for _, secret := range []string{"canary-database", key, sealing} {
			if strings.Contains(text, secret) {
				t.Errorf("%s shows a secret", where)
			}
		}
	}
}

// Nine tenths of the rows belong to a tenant whose endpoint is slow.
func TestRelay_AHotTenantDoesNotHoldUpOthers(t *testing.T) {
	t.Parallel()
	s := newStage(t, "RELAY_DELIVER_WINDOW_EVENTS=500")
	s.subscribe("hot", "hot", "*")
	s.recv.set("hot", behaviour{status: http.StatusOK, delay: 300 * time.Millisecond})
	quiet := s.subscribe("quiet", "quiet", "*")
	r := s.start()
	hot, l := newLedger(s, "hot", 50), newLedger(s, "quiet", 10)
	for range 4 {
		for k := range hot.keys {
			hot.add(k, 9)
		}
		for k := range l.keys {
			l.add(k, 5)
		}
	}
	l.settle(patience, quiet)
	if n := s.recv.count("hot"); n > 1_200 {
		t.Errorf("%d of 1800 rows of the hot tenant were taken before the quiet one had its 200", n)
	}
	if repeats := l.check(nil, quiet); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	r.terminate()
}

// Were the binary to show a secret, every test here would fail.
func TestSpawn_NoticesASecretInTheOutput(t *testing.T) {
	t.Parallel()
	output.MustNotice(t, func() {
		output.Secret(t, `"msg":"relay starts"`)
		newStage(t).start().terminate()
	}, binaryVariable+"="+relayBinary)
}
