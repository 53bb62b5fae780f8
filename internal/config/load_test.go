package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	secrets "github.com/outbox-relay/relay/internal/secret"
)

// write puts text into a new file and returns its path.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// parsed returns the flags of the command line, parsed from args.
func parsed(t *testing.T, args ...string) *pflag.FlagSet {
	t.Helper()
	fs := pflag.NewFlagSet("relay", pflag.ContinueOnError)
	AddFlags(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return fs
}

func mustLoad(t *testing.T, opts LoadOptions) *Config {
	t.Helper()
	c, err := load(opts, filepath.Join(t.TempDir(), "none.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mustFail(t *testing.T, opts LoadOptions) []Fault {
	t.Helper()
	_, err := load(opts, filepath.Join(t.TempDir(), "none.yaml"))
	invalid, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("got %v, want an *Error", err)
	}
	return invalid.Faults
}

func TestLoad_PrefersFlagToEnvironmentToFileToDefault(t *testing.T) {
	path := write(t, "relay.yaml", "deliver: {timeout: 11s}\nlog: {level: warn}\ncdc: {slot: from_file}\n")
	env := []string{"RELAY_DELIVER_TIMEOUT=12s", "RELAY_LOG_LEVEL=error", "RELAY_CONFIG=" + path, "HOME=/"}
	c := mustLoad(t, LoadOptions{Environ: env, Flags: parsed(t, "--set", "deliver.timeout=13s")})

	for key, want := range map[string]struct{ value, origin string }{
		"deliver.timeout": {"13s", "flag --set"},
		"log.level":       {"error", "env RELAY_LOG_LEVEL"},
		"cdc.slot":        {"from_file", path + ":3"},
		"cdc.publication": {"relay", "default"},
	} {
		if got := settingOf[key].texts(c)[0]; got != want.value {
			t.Errorf("%s: got %s, want %s", key, got, want.value)
		}
		if got := c.Origin(key).String(); got != want.origin {
			t.Errorf("origin of %s: got %s, want %s", key, got, want.origin)
		}
	}
	if c.Deliver.Timeout != 13*time.Second || c.File() != path {
		t.Errorf("got %s from %s", c.Deliver.Timeout, c.File())
	}
}

func TestLoad_FindsTheFile(t *testing.T) {
	a := write(t, "a.yaml", "cdc: {slot: a}")
	b := write(t, "b.yaml", "cdc: {slot: b}")
	s := write(t, "s.yaml", "cdc: {slot: s}")
	for name, tc := range map[string]struct {
		opts LoadOptions
		want string
	}{
		"the option first":        {LoadOptions{File: a, Flags: parsed(t, "--config", b)}, "a"},
		"then the flag":           {LoadOptions{Flags: parsed(t, "--config", a), Environ: []string{"RELAY_CONFIG=" + b}}, "a"},
		"then the environment":    {LoadOptions{Flags: parsed(t), Environ: []string{"RELAY_CONFIG=" + b}}, "b"},
		"then that of the system": {LoadOptions{}, "s"},
	} {
		c, err := load(tc.opts, s)
		if err != nil || c.CDC.Slot != tc.want {
			t.Errorf("%s: got %+v, %v", name, c, err)
		}
	}
	if c := mustLoad(t, LoadOptions{}); c.File() != "" || len(Changed(c, Default())) != 0 {
		t.Errorf("without any file: got %v", Changed(c, Default()))
	}
	if f := mustFail(t, LoadOptions{File: "/no/such/relay.yaml"}); f[0].Got != "no such file or directory" {
		t.Errorf("missing file: got %+v", f)
	}
}

func TestLoad_TakesEveryKeyFromEnvironmentAndFlag(t *testing.T) {
	// Of the sources of JWT keys one excludes the others.
	for _, left := range [][]string{{"auth.jwt.secret", "auth.jwt.jwks_path"}, {"auth.jwt.jwks_url", "auth.jwt.jwks_path"},
		{"auth.jwt.secret", "auth.jwt.jwks_url"}} {
		takesEveryKeyBut(t, left)
	}
}

func takesEveryKeyBut(t *testing.T, left []string) {
	t.Helper()
	values := map[string]string{}
	for _, s := range settings {
		values[s.key] = s.def
		if s.def == "" {
			values[s.key] = map[bool]string{true: "a.example,b.example", false: "x"}[s.list]
		}
	}
	values[keyDatabaseURL], values[keyReplicationURL] = "postgres://h/a", "postgres://h/b"
	values["http.ops_listen"], values["cdc.wal_budget"] = ":9000", "8GiB"
	values["secrets.key"] = newKeyset(t)
	values["egress.headers_allow"] = "apikey,CF-Access-*"
	values["egress.proxy"] = "http://proxy.example:3128"
	values["api.trusted_proxies"] = "10.0.0.0/8,192.0.2.7/32"
	values["auth.jwt.jwks_url"] = "https://login.example.com/jwks.json"
	for _, key := range left {
		delete(values, key)
	}
	var env, args []string
	for key, value := range values {
		env = append(env, EnvName(key)+"="+value)
		args = append(args, "--set", key+"="+value)
	}
	byEnv := mustLoad(t, LoadOptions{Environ: env})
	byFlag := mustLoad(t, LoadOptions{Flags: parsed(t, args...)})
	if diff := Changed(byEnv, byFlag); len(diff) > 0 {
		t.Errorf("environment and flags differ in %v", diff)
	}
	for key, value := range values {
		if byEnv.Origin(key).Source != SourceEnvironment || byFlag.Origin(key).Source != SourceFlag {
			t.Errorf("%s came from %s and %s", key, byEnv.Origin(key), byFlag.Origin(key))
		}
		if text := strings.Join(settingOf[key].texts(byEnv), ","); text != value {
			t.Errorf("%s: got %q, want %q", key, text, value)
		}
	}
}

// newKeyset returns a keyset with one new key, as it is configured.
func newKeyset(t *testing.T) string {
	t.Helper()
	set, err := secrets.GenerateKeyset()
	if err != nil {
		t.Fatal(err)
	}
	text, err := set.Text()
	if err != nil {
		t.Fatal(err)
	}
	return text.Reveal()
}

func TestLoad_ReadsTheKeysetAndShowsNothingOfIt(t *testing.T) {
	text := newKeyset(t)
	_, key, _ := strings.Cut(text, `"value":"`)
	key, _, _ = strings.Cut(key, `"`)
	if len(key) < 40 {
		t.Fatalf("no key in %d bytes", len(text))
	}
	path := write(t, "keys.json", text+"\n")
	for name, opts := range map[string]LoadOptions{
		"file":               {File: write(t, "relay.yaml", "secrets:\n  key: '"+text+"'\n")},
		"block in the file":  {File: write(t, "relay.yaml", "secrets:\n  key: |\n    "+strings.ReplaceAll(text, `,"`, ",\n    \"")+"\n")},
		"file of the file":   {File: write(t, "relay.yaml", "secrets: {key_file: "+path+"}\n")},
		"environment":        {Environ: []string{"RELAY_SECRETS_KEY=" + text}},
		"file of environent": {Environ: []string{"RELAY_SECRETS_KEY_FILE=" + path}},
		"flag":               {Flags: parsed(t, "--set", "secrets.key_file="+path)},
	} {
		c := mustLoad(t, opts)
		ring, err := secrets.NewKeyring(c.Secrets.Key)
		if err != nil || ring.Primary() == 0 {
			t.Fatalf("%s: %v", name, err)
		}
		if slices.Contains(NeedsRestart([]string{"secrets.key"}), "secrets.key") {
			t.Error("the key is not reloaded")
		}
		var out bytes.Buffer
		if err := errors.Join(Print(&out, c), PrintJSON(&out, c)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%v %+v %#v", c, c.Secrets, c.Secrets)
		if strings.Contains(out.String(), key) || strings.Contains(out.String(), "primaryKeyId") {
			t.Errorf("%s: the key is shown:\n%s", name, out.String())
		}
	}
	for _, spoilt := range []string{text[:len(text)-9], "x" + text, strings.ReplaceAll(text, "AesGcmKey", "AesGcmKex"), strings.ReplaceAll(text, "SYMMETRIC", "SYMETRIC")} {
		for _, opts := range []LoadOptions{
			{File: write(t, "relay.yaml", "secrets:\n  key: '"+spoilt+"'\n")},
			{File: write(t, "relay.yaml", "secrets:\n  key: "+spoilt+"\n")},
			{File: write(t, "relay.yaml", "secrets:\n  key:\n    "+strings.ReplaceAll(spoilt, ",", ",\n    ")+"\n")},
			{File: write(t, "relay.yaml", "secrets:\n  key: '"+strings.ReplaceAll(spoilt, ",", "\n,")+"\n")},
			{Environ: []string{"RELAY_SECRETS_KEY=" + spoilt}},
			{Environ: []string{"RELAY_SECRETS_KEY_FILE=" + write(t, "keys.json", spoilt)}},
		} {
			if err := (&Error{Faults: mustFail(t, opts)}).Error(); strings.Contains(err, key) {
				t.Errorf("the message shows the key:\n%s", err)
			}
		}
	}
}

func TestLoad_TellsFaultsOutsideTheFile(t *testing.T) {
	for name, tc := range map[string]struct {
		env  []string
		args []string
		want string
	}{
		"value": {[]string{"RELAY_LOG_LEVEL=inf"}, nil,
			`env RELAY_LOG_LEVEL: log.level: got "inf", expected debug, info, warn or error; did you mean info?`},
		"unknown variable": {[]string{"RELAY_DELIVER_TIMOUT=5s"}, nil,
			`env RELAY_DELIVER_TIMOUT: got an unknown variable, expected the variable of a known key; did you mean RELAY_DELIVER_TIMEOUT?`},
		"unknown variable of a section": {[]string{"RELAY_CDC_XXXXXXXXXX=1"}, nil,
			`env RELAY_CDC_XXXXXXXXXX: got an unknown variable, expected the variable of a known key`},
		"flag of its own": {nil, []string{"--log-format", "jason"},
			`flag --log-format: log.format: got "jason", expected auto, text or json; did you mean json?`},
		"set without value": {nil, []string{"--set", "log.level"}, `flag --set: got "log.level", expected key=value`},
		"set of an unknown key": {nil, []string{"--set", "deliver.retries.jitter=1"},
			`flag --set: deliver.retries.jitter: got an unknown key, expected a known key; did you mean deliver.retry.jitter?`},
		"set to nothing": {nil, []string{"--set", "deliver.timeout="},
			`flag --set: deliver.timeout: got nothing, expected a duration with its unit between 10ms and 30s`},
		"item of a list": {[]string{"RELAY_EGRESS_PORTS=80,,443"}, nil,
			`env RELAY_EGRESS_PORTS: egress.ports: got "", expected a whole number between 1 and 65535`},
		"secret's file": {[]string{"RELAY_DATABASE_URL_FILE=/no/such"}, nil,
			`env RELAY_DATABASE_URL_FILE: database.url_file: got "/no/such" (no such file or directory), expected the path of a file that holds the secret`},
		"relation": {[]string{"RELAY_DELIVER_HANDOVER_AFTER=20s"}, nil,
			`env RELAY_DELIVER_HANDOVER_AFTER: deliver.handover_after: got 20s, expected less than deliver.timeout (15s)`},
		"password": {[]string{"RELAY_DATABASE_URL=postgres://u:hunter2@h:x/d"}, nil,
			`env RELAY_DATABASE_URL: database.url: got a port that is not a number from 1 to 65535, expected a PostgreSQL connection: ` +
				`postgres://user:password@host:5432/database or key=value pairs`},
	} {
		faults := mustFail(t, LoadOptions{Environ: tc.env, Flags: parsed(t, tc.args...)})
		if len(faults) != 1 || faults[0].String() != tc.want {
			t.Errorf("%s: got %v\nwant %s", name, faults, tc.want)
		}
	}
}

func TestLoad_LeavesOthersVariablesAlone(t *testing.T) {
	mustLoad(t, LoadOptions{Environ: []string{
		// What Kubernetes sets for services named relay and relay-http.
		"RELAY_SERVICE_HOST=10.0.0.1", "RELAY_SERVICE_PORT=8000", "RELAY_SERVICE_PORT_HTTP=8000",
		"RELAY_PORT=tcp://10.0.0.1:8000", "RELAY_PORT_8000_TCP=tcp://10.0.0.1:8000",
		"RELAY_PORT_8000_TCP_PROTO=tcp", "RELAY_PORT_8000_TCP_ADDR=10.0.0.1", "RELAY_HTTP_SERVICE_HOST=10.0.0.1",
		"RELAY_SOMEBODY_ELSES_THING=1", "RELAYX=1", "RELAY_LOG_LEVEL=", "broken",
	}})
}

func TestLoad_ReadsSecretsFromFiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"url": "postgres://u:hunter2@h/d\n", "dos": "postgres://u:hunter2@h/dos\r\n", "space": "host=h password='a b'",
		"empty": "\n", "large": strings.Repeat("x", largestSecret+1),
		"relay.yaml": "database:\n  url_file: url\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "relay.yaml")

	c := mustLoad(t, LoadOptions{File: file})
	if c.Database.URL != "postgres://u:hunter2@h/d" || c.Database.ReplicationURL != c.Database.URL {
		t.Errorf("got %+v", c.Database)
	}
	if got, want := c.Origin(keyDatabaseURL).String(), file+":2 (from "+filepath.Join(dir, "url")+")"; got != want {
		t.Errorf("origin: got %s, want %s", got, want)
	}
	c = mustLoad(t, LoadOptions{File: file, Environ: []string{"RELAY_DATABASE_URL_FILE=" + filepath.Join(dir, "dos"),
		"RELAY_DATABASE_REPLICATION_URL_FILE=" + filepath.Join(dir, "space")}})
	if c.Database.URL != "postgres://u:hunter2@h/dos" || c.Database.ReplicationURL != "host=h password='a b'" {
		t.Errorf("environment: got %+v", c.Database)
	}
	c = mustLoad(t, LoadOptions{Environ: []string{"RELAY_DATABASE_URL=postgres://h/e"},
		Flags: parsed(t, "--set", "database.url_file="+filepath.Join(dir, "url"))})
	if c.Database.URL != "postgres://u:hunter2@h/d" {
		t.Errorf("flag: got %+v", c.Database)
	}
	for name, got := range map[string]string{"empty": "empty file", "large": "larger than 64KiB", "": "is a directory"} {
		faults := mustFail(t, LoadOptions{Environ: []string{"RELAY_DATABASE_URL_FILE=" + filepath.Join(dir, name)}})
		if len(faults) != 1 || !strings.Contains(faults[0].Got, got) {
			t.Errorf("%q: got %v", name, faults)
		}
	}
	faults := mustFail(t, LoadOptions{Environ: []string{"RELAY_DATABASE_URL=postgres://h/e",
		"RELAY_DATABASE_URL_FILE=" + filepath.Join(dir, "url")}})
	if len(faults) != 1 || faults[0].Expected != "only one of RELAY_DATABASE_URL and RELAY_DATABASE_URL_FILE" {
		t.Errorf("both: got %v", faults)
	}
}

func TestLoad_ChecksTheFileAlsoWhereAFlagHidesIt(t *testing.T) {
	path := write(t, "relay.yaml", "log: {level: loud}")
	if faults := mustFail(t, LoadOptions{File: path, Flags: parsed(t, "--log-level", "info")}); len(faults) != 1 {
		t.Errorf("got %v", faults)
	}
}

func TestLoad_ReadsWhatYAMLAllows(t *testing.T) {
	path := write(t, "relay.yaml", "\ufeff---\r\nlog: &l\r\n  level: &x \"warn\"\r\n"+
		"cdc:\r\ndeliver:\r\n  retry: {schedule: '0s, 5s'}\r\n  log: failures\r\n"+
		"catalog: {files: [events.yaml, /etc/relay/more.yaml]}\r\negress: {allow: 10.0.0.0/8, deny: }\r\n")
	c := mustLoad(t, LoadOptions{File: path})
	if got := c.Log.Level.String(); got != "WARN" {
		t.Errorf("level: got %s", got)
	}
	if want := []time.Duration{0, 5 * time.Second}; !slices.Equal(c.Deliver.Retry.Schedule, want) {
		t.Errorf("schedule: got %v", c.Deliver.Retry.Schedule)
	}
	if want := []string{filepath.Join(filepath.Dir(path), "events.yaml"), "/etc/relay/more.yaml"}; !slices.Equal(c.Catalog.Files, want) {
		t.Errorf("files: got %v", c.Catalog.Files)
	}
	if len(c.Egress.Allow) != 1 || len(c.Egress.Deny) != 0 {
		t.Errorf("egress: got %+v", c.Egress)
	}
	for _, text := range []string{"", "\n", "# nothing\n", "---\n", "null\n", "log:\n"} {
		if c := mustLoad(t, LoadOptions{File: write(t, "relay.yaml", text)}); len(Changed(c, Default())) > 0 {
			t.Errorf("%q: changed %v", text, Changed(c, Default()))
		}
	}
}

func TestRequire_NamesTheMissingKeyAndWhereToSetIt(t *testing.T) {
	err := Default().Require(keyDatabaseURL, "cdc.slot")
	if err == nil || !strings.Contains(err.Error(), "RELAY_DATABASE_URL, --database-url or in the configuration file") {
		t.Errorf("got %v", err)
	}
	c := mustLoad(t, LoadOptions{Flags: parsed(t, "--database-url", "postgres://h/d")})
	if err := c.Require(keyDatabaseURL, keyReplicationURL); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestNeedsRestart_KnowsWhatIsBoundAtTheStart(t *testing.T) {
	old := mustLoad(t, LoadOptions{})
	changed := mustLoad(t, LoadOptions{Environ: []string{"RELAY_HTTP_LISTEN=:1", "RELAY_DELIVER_TIMEOUT=9s",
		"RELAY_LOG_LEVEL=debug", "RELAY_DATABASE_URL=postgres://h/d", "RELAY_EGRESS_ALLOW=10.0.0.0/8"}})
	keys := Changed(old, changed)
	want := []string{keyDatabaseURL, keyReplicationURL, "deliver.timeout", "egress.allow", "http.listen", "log.level"}
	if !slices.Equal(keys, want) {
		t.Errorf("changed: got %v, want %v", keys, want)
	}
	if got, want := NeedsRestart(keys), []string{keyDatabaseURL, keyReplicationURL, "http.listen"}; !slices.Equal(got, want) {
		t.Errorf("restart: got %v, want %v", got, want)
	}
}

// Every key that a daemon says it will not take over stays as it is, and every other one is taken over.
func TestReloaded_KeepsWhatNeedsARestart(t *testing.T) {
	text := `
database: {url: "postgres://old/d", max_connections: 7, allow_plaintext: true}
cdc: {slot: old, marker_interval: 3s}
outbox: {table: public.old, max_payload: 2KiB, columns: {id: old}}
http: {listen: ":1"}
deliver: {timeout: 9s, log: all, log_retention: 240h, record: {interval: 20ms}}
api: {max_connections: 3, write_rate: 7}
auth: {jwt: {secret: abcdefghijklmnopqrstuvwxyz012345, issuer: old}}
egress: {allow: [10.0.0.0/8]}
log: {format: text, level: warn}
`
	old, next := mustLoad(t, LoadOptions{File: write(t, "relay.yaml", text)}), mustLoad(t, LoadOptions{})
	for _, c := range [][2]*Config{{old, next}, {next, old}} {
		got := Reloaded(c[0], c[1])
		if stay := NeedsRestart(Changed(c[0], got)); len(stay) > 0 {
			t.Errorf("taken over: %v", stay)
		}
		taken := Changed(c[1], got)
		if stay := NeedsRestart(taken); !slices.Equal(stay, taken) {
			t.Errorf("of %v, only %v need a restart", taken, stay)
		}
		if len(taken) < 12 || len(Changed(c[0], got)) < 4 {
			t.Errorf("kept %v, took over %v: the test shows nothing", taken, Changed(c[0], got))
		}
		if got.Origin("http.listen") != c[0].Origin("http.listen") || got.Origin("deliver.timeout") != c[1].Origin("deliver.timeout") {
			t.Errorf("the origins are %v and %v", got.Origin("http.listen"), got.Origin("deliver.timeout"))
		}
	}
}

// Every default has to be a value of its own kind, and every field of the structs to have its key.
func TestSettings_CoverEveryFieldOnceWithAValidDefault(t *testing.T) {
	for _, s := range settings {
		if s.def != "" {
			if _, m := s.assign(&Config{}, s.split(s.def)); m != nil {
				t.Errorf("%s: default %q is refused: %+v", s.key, s.def, m)
			}
		}
		if s.doc == "" || s.expected == "" || !strings.HasSuffix(s.doc, ".") {
			t.Errorf("%s is not explained", s.key)
		}
	}
	for path := range sections {
		if sectionDocs[path] == "" {
			t.Errorf("section %s is not explained", path)
		}
	}
	if fields := countFields(reflect.TypeFor[Config]()); fields != len(settings) {
		t.Errorf("%d fields, %d settings", fields, len(settings))
	}
}

// countFields counts the exported leaves of a struct.
func countFields(t reflect.Type) int {
	if t.Kind() != reflect.Struct || t == reflect.TypeFor[secrets.Secret]() {
		return 1
	}
	n := 0
	for i := range t.NumField() {
		if f := t.Field(i); f.IsExported() {
			n += countFields(f.Type)
		}
	}
	return n
}

func FuzzParse(f *testing.F) {
	for _, path := range []string{"../../configs/relay.yaml", "testdata/many_faults.yaml", "testdata/merge_key.yaml"} {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("a: &a [*a]\ndeliver: &d {retry: *d}\negress: {ports: [*a, ~, {}]}"))
	f.Add([]byte("? [a]\n: b\n? {a: b}\n: c\nlog: !!binary x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		l := &loader{config: Default(), overlay: readOverlay(nil, nil), bad: map[string]bool{}}
		l.file = parseFile("relay.yaml", data)
		for _, key := range fileKeys {
			if secretOf[key] != nil {
				delete(l.file.entries, key) // no reading of arbitrary files
			}
		}
		c, err := l.finish()
		switch invalid, ok := errors.AsType[*Error](err); {
		case err == nil && len(c.Deliver.Retry.Schedule) == 0:
			t.Error("an empty schedule was let through")
		case err != nil && (!ok || len(invalid.Faults) == 0 || invalid.Error() == ""):
			t.Errorf("got %v", err)
		}
	})
}

func FuzzOverlay(f *testing.F) {
	for _, s := range settings {
		f.Add(s.key, s.def)
	}
	f.Fuzz(func(t *testing.T, key, value string) {
		if strings.HasSuffix(key, fileSuffix) {
			return // no reading of arbitrary files
		}
		fs := parsed(t)
		if err := fs.Set(flagSet, key+"="+value); err != nil {
			t.Skip()
		}
		c, err := load(LoadOptions{Flags: fs}, "/no/such/file")
		if err != nil {
			return
		}
		// What was taken is written in a form that is taken again and means the same.
		s := settingOf[strings.TrimSpace(key)]
		if s == nil {
			return
		}
		again := *c
		if i, m := s.assign(&again, s.texts(c)); m != nil || len(Changed(c, &again)) > 0 {
			t.Errorf("%s=%q: canonical form %q is not the same (%d, %+v)", key, value, s.texts(c), i, m)
		}
	})
}
