package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/daemon"
	"github.com/outbox-relay/relay/internal/migrate/migratetest"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
	"github.com/outbox-relay/relay/internal/signature"
	"github.com/outbox-relay/relay/test/output"
)

func TestMain(m *testing.M) {
	for _, pair := range os.Environ() { // the caller's own relay is none of ours
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "RELAY_") {
			if err := os.Unsetenv(name); err != nil {
				panic(err)
			}
		}
	}
	pgtest.Main(m, pgtest.NoLeaks(goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop")))
}

var testSecret = output.Secret(nil, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

const patience = 20 * time.Second

// result is what a command left.
type result struct {
	t        *testing.T
	args     string
	out, err string
	code     int
}

// call runs a command in this process.
func call(t *testing.T, args ...string) result {
	t.Helper()
	line := "relay " + strings.Join(args, " ")
	out, err := output.Once("stdout of "+line), output.Once("stderr of "+line)
	given(t, args)
	code := callWith(t.Context(), out, err, args...)
	r := result{t: t, args: strings.Join(args, " "), out: out.Said(t), err: err.Said(t), code: code}
	for _, made := range secretMade.FindAllString(r.out+"\n"+r.err, -1) { // shown this once
		output.Secret(t, made)
	}
	return r
}

// secretMade is what a command shows of a secret or a token that it makes.
var secretMade = regexp.MustCompile(`whsec_[A-Za-z0-9+/=]{20,}|relay_[0-9A-Za-z]{40,}`)

// given makes the secrets known that a command is given in its arguments.
func given(t *testing.T, args []string) {
	t.Helper()
	for i, arg := range args {
		if u, err := url.Parse(arg); err == nil && u.User != nil {
			password, _ := u.User.Password()
			output.Secret(t, password)
		}
		if i == 0 {
			continue
		}
		switch args[i-1] {
		case "--secret":
			output.Secret(t, arg)
		case "--secret-file":
			if text, err := os.ReadFile(arg); err == nil {
				output.Secret(t, strings.TrimSpace(string(text)))
			}
		}
		if path, ok := strings.CutPrefix(arg, "secrets.key_file="); ok {
			for _, key := range keysIn(path) {
				output.Secret(t, key)
			}
		}
	}
}

func callWith(ctx context.Context, out, err *output.Buffer, args ...string) int {
	root := newRoot()
	root.SetOut(out)
	root.SetErr(err)
	return execute(ctx, root, args)
}

// exits checks the exit code and returns the result for more checks.
func (r result) exits(code int) result {
	r.t.Helper()
	if r.code != code {
		r.t.Fatalf("relay %s: exit code %d, want %d\nstdout: %s\nstderr: %s", r.args, r.code, code, r.out, r.err)
	}
	return r
}

// says checks that stdout has each of the texts.
func (r result) says(texts ...string) result {
	r.t.Helper()
	for _, want := range texts {
		if !strings.Contains(r.out, want) {
			r.t.Errorf("relay %s: stdout has no %q:\n%s", r.args, want, r.out)
		}
	}
	return r
}

// complains checks that stderr has each of the texts.
func (r result) complains(texts ...string) result {
	r.t.Helper()
	for _, want := range texts {
		if !strings.Contains(r.err, want) {
			r.t.Errorf("relay %s: stderr has no %q:\n%s", r.args, want, r.err)
		}
	}
	return r
}

// quiet checks that nothing but data was printed.
func (r result) quiet() result {
	r.t.Helper()
	if r.err != "" {
		r.t.Errorf("relay %s: stderr has %q, want nothing", r.args, r.err)
	}
	return r
}

// decode reads stdout as JSON.
func (r result) decode(to any) {
	r.t.Helper()
	if err := json.Unmarshal([]byte(r.out), to); err != nil {
		r.t.Fatalf("relay %s: %v in stdout:\n%s", r.args, err, r.out)
	}
}

// stage is a database with a configuration.
type stage struct {
	t    *testing.T
	url  string
	conn *pgx.Conn
	set  []string
	halt func() // stops the daemon that was started last
}

// newStage makes a migrated database.
func newStage(t *testing.T) *stage {
	t.Helper()
	return newStageAt(t, migratetest.NewDatabase(t))
}

func newEmptyStage(t *testing.T) *stage {
	t.Helper()
	return newStageAt(t, pgtest.NewDatabase(t))
}

func newStageAt(t *testing.T, url string) *stage {
	t.Helper()
	s := &stage{t: t, url: url}
	var err error
	if s.conn, err = pgx.Connect(t.Context(), s.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.conn.Close(context.Background()) })
	s.set = []string{"--database-url", s.url, "--set", "cdc.slot=c_" + s.conn.Config().Database, "--set", "egress.allow=127.0.0.0/8",
		"--set", "egress.require_https=false", "--set", "deliver.timeout=3s", "--set", "deliver.connect_timeout=1s",
		"--set", "deliver.handover_after=200ms", "--set", "deliver.record.interval=50ms", "--set", "deliver.retry.jitter=0", "--set", "cdc.marker_interval=100ms"}
	return s
}

// another is the stage with a connection of its own, for another goroutine.
func (s *stage) another() *stage {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	o := *s
	o.conn = conn
	return &o
}

// relay runs a command on the stage's database.
func (s *stage) relay(args ...string) result {
	s.t.Helper()
	return call(s.t, append(args, s.set...)...)
}

func (s *stage) exec(sql string, args ...any) {
	s.t.Helper()
	if _, err := s.conn.Exec(s.t.Context(), sql, args...); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

// text reads one value as text.
func (s *stage) text(sql string, args ...any) string {
	s.t.Helper()
	var v string
	if err := s.conn.QueryRow(s.t.Context(), sql, args...).Scan(&v); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func (s *stage) eventually(what string, cond func() bool) {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(deadline) {
			s.t.Fatalf("did not come in %s: %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// subscribe adds a subscription for all events and returns its id.
func (s *stage) subscribe(tenant, url string) string {
	s.t.Helper()
	r := s.relay("subscriptions", "add", "--tenant", tenant, "--url", url, "--event", "*", "--secret", testSecret).exits(0)
	return strings.TrimSpace(r.out)
}

// commit inserts a payment.received event.
func (s *stage) commit(tenant, invoice string) {
	s.t.Helper()
	s.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload) VALUES ($1, 'invoice', $2,
		'payment.received', json_build_object('payment_id', 'p', 'invoice_id', $2::text, 'amount', '1500.00', 'currency', 'EUR'))`, tenant, invoice)
}

// config loads what the stage's commands are given.
func (s *stage) config() (*config.Config, error) {
	flags := newRoot().PersistentFlags()
	if err := flags.Parse(s.set); err != nil {
		return nil, err
	}
	return config.Load(config.LoadOptions{Flags: flags})
}

// start runs a daemon until the test ends; commands find it at http.listen. A
// reload of it takes in what was added to set.
func (s *stage) start() *daemon.Daemon {
	s.t.Helper()
	d, _ := s.startLogged("127.0.0.1:0")
	return d
}

// startLogged is start with an address to listen on, and returns the daemon's log too.
func (s *stage) startLogged(listen string) (*daemon.Daemon, *output.Buffer) {
	s.t.Helper()
	s.set = append(s.set, "--set", "http.listen="+listen)
	cfg, err := s.config()
	if err != nil {
		s.t.Fatal(err)
	}
	log := output.New(s.t, "the daemon")
	d, err := daemon.New(daemon.Options{Config: cfg, Log: slog.New(slog.NewTextHandler(log, nil)), Version: "test", Reload: s.config})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.t.Context()))
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	s.halt = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("daemon: %v", err)
		}
		if s.t.Failed() {
			s.t.Logf("daemon's log:\n%s", log)
		}
	})
	s.t.Cleanup(s.halt)
	s.eventually("the daemon streams", func() bool { return d.Status().Ready })
	s.set = append(s.set, "--set", "http.listen="+d.Addr())
	return d, log
}

// receiver is an endpoint that answers with what is set, and counts what verifies.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	status   int
	verified int
	types    []string
}

func newReceiver(t *testing.T, status int) *receiver {
	t.Helper()
	r := &receiver{status: status}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if signature.Verify([]string{testSecret}, req.Header, body, time.Now(), signature.Tolerance) == nil {
			r.verified++
		}
		r.types = append(r.types, req.Header.Get("X-Event-Type"))
		w.WriteHeader(r.status)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) answer(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = status
}

func (r *receiver) got() (types []string, verified int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.types...), r.verified
}

// write makes a file of the test.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestExecute_TellsWrongUsageByItsExitCode(t *testing.T) {
	const id = "01a21045-e54f-72f6-866b-2636175a6f62"
	for _, c := range []struct{ args, want string }{
		{"subscriptions ad", "did you mean `relay subscriptions add`?"},
		{"subscriptions nonsense", "unknown command \"nonsense\""},
		{"deliveries lst", "did you mean `relay deliveries list`?"},
		{"quarantine discrd", "did you mean `relay quarantine discard`?"},
		{"config chekc", "did you mean `relay config check`?"},
		{"migrate statsu", "did you mean `relay migrate status`?"},
		{"migrate --frobnicate", "unknown flag: --frobnicate"},
		{"deliveries list -o xml", "-o xml: expected text or json"},
		{"deliveries list --status SENT", "--status SENT: expected PENDING, DELIVERED, DEAD or CANCELLED"},
		{"deliveries list --limit 0", "--limit 0: expected 1 to 10000"},
		{"deliveries list --cursor x", "--cursor \"x\": expected an id"},
		{"deliveries list --subscription x", "--subscription \"x\": expected an id"},
		{"deliveries show", "accepts 1 arg(s), received 0"},
		{"deliveries show 12", "delivery \"12\": expected an id"},
		{"deliveries retry", "expected the ids of deliveries, or --all"},
		{"deliveries retry --all " + id, "expected the ids of deliveries, or --all"},
		{"deliveries retry " + id + " --event a.b", "--event is for --all"},
		{"deliveries retry --all --status DELIVERED", "--status DELIVERED: only DEAD and PENDING"},
		{"deliveries retry --all --rate 10001", "--rate 10001: expected 1 to 10000"},
		{"replay", "expected --subscription and --from"},
		{"replay --subscription x --from 1h", "--subscription \"x\": expected an id"},
		{"replay --subscription " + id + " --from yesterday", "--from \"yesterday\": expected a time such as 2026-01-31T15:04:05Z, or how long ago"},
		{"replay --subscription " + id + " --from 1h --to -1h", "--to \"-1h\": expected a time"},
		{"replay --subscription " + id + " --from 1h --event payment..x", "expected a name such as payment.received"},
		{"replay --subscription " + id + " --from 1h --rate -1", "--rate -1: expected 1 to 100000"},
		{"replay lst --wait", "did you mean `relay replay list`?"},
		{"replay show seven", "expected a number from `relay replay list`"},
		{"replay list --limit 0", "--limit 0: expected at least 1"},
		{"quarantine show seven", "expected a number from `relay quarantine list`"},
		{"quarantine list --limit 0", "--limit 0: expected at least 1"},
		{"quarantine retry", "expected the numbers of rows, or --all"},
		{"quarantine retry 1 --all", "expected the numbers of rows, or --all"},
		{"quarantine discard 1 --yes --dry-run", "--dry-run and --yes exclude each other"},
		{"quarantine discrd 1 --yes", "did you mean `relay quarantine discard`?"},
		{"subscription ad --tenant t --url https://a.example", "did you mean `relay subscriptions add`?"},
		{"subscripton add --tenant t", "did you mean `relay subscriptions`?"},
		{"subscriptions add --tenat t", "unknown flag: --tenat; did you mean --tenant?"},
		{"subscriptions add", "--tenant, --url and --event are required"},
		{"subscriptions add --tenant t --url https://a.example --event payment..received", "expected a name such as payment.received"},
		{"subscriptions add --tenant t --url https://a.example --event * --ordering fifo", "--ordering fifo: expected key or none"},
		{"subscriptions add --tenant t --url https://a.example --event * --rate-limit 1001", "--rate-limit 1001: expected 0.01 to 1000"},
		{"subscriptions add --tenant t --url https://a.example --event * --rate-limit NaN", "--rate-limit NaN: expected 0.01 to 1000"},
		{"subscriptions add --tenant t --url https://a.example --event * --retry-schedule 0s,721h", "--retry-schedule 721h0m0s: expected a time"},
		{"subscriptions add --tenant t --url https://a.example --event * --retry-schedule 1us", "--retry-schedule 1µs: expected a time"},
		{"subscriptions add --tenant t --url https://a.example --event * --retry-schedule " + strings.Repeat("1s,", 100) + "1s", "expected up to 100 times, got 101"},
		{"subscriptions add --tenant t --url https://a.example --event * --secret a --secret-file b", "exclude each other"},
		{"subscriptions add --tenant t --url https://a.example --event * --secret whsec_!", "secret: "},
		{"subscriptions enable " + id + " more", "accepts 1 arg(s), received 2"},
		{"subscriptions show nothing", "subscription \"nothing\": expected an id"},
		{"events extra", "relay events takes no arguments, got \"extra\""},
		{"status extra", "relay status takes no arguments, got \"extra\""},
	} {
		r := call(t, append(strings.Fields(c.args), "--database-url", "postgres://127.0.0.1:1/none")...).exits(exitUsage).complains("relay: ", c.want)
		if r.out != "" {
			t.Errorf("relay %s: stdout has %q, want nothing", c.args, r.out)
		}
	}
}

func TestExecute_SuggestsTheCommandThatWasMeant(t *testing.T) {
	call(t, "subscritions").exits(exitUsage).complains("unknown command", "subscriptions")
}

func TestExecute_TellsFaultyConfigurationByItsExitCode(t *testing.T) {
	file := write(t, "relay.yaml", "version: 1\ndeliver:\n  timeoutt: 5s\n")
	for _, args := range [][]string{
		{"config", "check"}, {"config", "print"}, {"events"}, {"migrate"}, {"migrate", "status"}, {"subscriptions", "list"}, {"deliveries", "list"},
		{"deliveries", "tail"}, {"quarantine", "list"}, {"status"},
	} {
		call(t, append(args, "--config", file)...).exits(exitConfig).complains(file+":3", "timeoutt", "did you mean", "timeout")
	}
}

func TestExecute_NamesTheKeyThatIsMissing(t *testing.T) {
	for _, args := range [][]string{{"migrate"}, {"migrate", "status"}, {"subscriptions", "list"}, {"deliveries", "list"}, {"quarantine", "list"}, {"status"}} {
		call(t, args...).exits(exitConfig).complains("database.url", "RELAY_DATABASE_URL")
	}
}

func TestExecute_ShowsTheWayOutWhenTheDatabaseIsAway(t *testing.T) {
	for _, args := range [][]string{{"migrate"}, {"migrate", "status"}, {"subscriptions", "list"}, {"deliveries", "list"}, {"quarantine", "list"}} {
		r := call(t, append(args, "--database-url", "postgres://me:hunter2@127.0.0.1:1/none")...).exits(exitFailed).complains("connection refused", "look at database.url")
		if strings.Count(r.err, "connection refused") != 1 || strings.Contains(r.err, "tls") {
			t.Errorf("relay %s does not say the cause once:\n%s", r.args, r.err)
		}
		if strings.Contains(r.err, "hunter2") {
			t.Errorf("relay %s shows the password:\n%s", r.args, r.err)
		}
	}
}

func TestExecute_ShowsNoPieceOfAPasswordThatIsNotEscaped(t *testing.T) {
	for _, url := range []string{"postgres://me:a@hunter2@127.0.0.1:1/none", "postgres://me:a/hunter2@127.0.0.1:1/none",
		"postgres://me:a#hunter2@127.0.0.1:1/none", "postgres://me:a?hunter2@127.0.0.1:1/none", "postgres://me:a%hunter2@127.0.0.1:1/none",
		"postgres://me:a@hunter2/b@127.0.0.1:1/none", "host=127.0.0.1 port=1 password='hunter2"} {
		for _, args := range [][]string{{"config", "check"}, {"config", "print"}, {"migrate"}, {"subscriptions", "list"}, {"status"}} {
			r := call(t, append(args, "--database-url", url)...)
			if strings.Contains(r.out+r.err, "hunter2") {
				t.Errorf("relay %s with %s:\n%s%s", r.args, url, r.out, r.err)
			}
		}
	}
}

func TestExecute_AsksForTheMigrationThatIsMissing(t *testing.T) {
	s := newEmptyStage(t)
	for _, args := range [][]string{{"subscriptions", "list"}, {"deliveries", "list"}, {"quarantine", "list"}} {
		s.relay(args...).exits(exitFailed).complains("run `relay migrate`")
	}
	s.relay("status").exits(exitUnhealthy).says("run `relay migrate`")
}
