package config

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

func TestPrint_ShowsOriginsAndNoPasswordAndLoadsAgain(t *testing.T) {
	c := mustLoad(t, LoadOptions{
		Environ: []string{"RELAY_DATABASE_URL=postgres://u:hunter2@h/d", "RELAY_EGRESS_ALLOW=::1,10.0.0.0/8,Hooks.Example."},
		Flags:   parsed(t, "--set", "deliver.retry.schedule=0s,90m", "--set", "deliver.window.bytes=1GiB"),
	})
	var out bytes.Buffer
	if err := Print(&out, c); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"  url: postgres://u:***@h/d # env RELAY_DATABASE_URL\n",
		"    schedule: [0s, 1h30m] # flag --set\n",
		"    bytes: 1GiB # flag --set\n",
		"  allow: ['::1/128', 10.0.0.0/8, hooks.example] # env RELAY_EGRESS_ALLOW\n",
		"  ops_listen: null # default\n",
		"  slot: relay # default\n",
	} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("missing %q", line)
		}
	}
	if strings.Contains(out.String(), "hunter2") {
		t.Error("the password is shown")
	}
	if t.Failed() {
		t.Logf("got\n%s", out.String())
	}
	again := mustLoad(t, LoadOptions{File: write(t, "relay.yaml", out.String())})
	if got, want := Changed(c, again), []string{keyDatabaseURL, keyReplicationURL}; !slices.Equal(got, want) {
		t.Errorf("loaded again, %v changed, want %v", got, want)
	}
}

func TestPrint_HidesTheCredentialsOfAProxy(t *testing.T) {
	file := write(t, "proxy", "https://:hunter2@proxy.example\n")
	for _, env := range []string{"RELAY_EGRESS_PROXY=http://relay:hunter2@proxy.example:3128", "RELAY_EGRESS_PROXY=http://hunter2@proxy.example:3128",
		"RELAY_EGRESS_PROXY=http://hun@ter2:hunter2@proxy.example", "RELAY_EGRESS_PROXY_FILE=" + file} {
		var text, json bytes.Buffer
		c := mustLoad(t, LoadOptions{Environ: []string{env}})
		if err := Print(&text, c); err != nil {
			t.Fatal(err)
		}
		if err := PrintJSON(&json, c); err != nil {
			t.Fatal(err)
		}
		for _, out := range []string{text.String(), json.String()} {
			if strings.Contains(out, "hunter2") || !strings.Contains(out, "://***@proxy.example") {
				t.Errorf("%s: got\n%s", env, out)
			}
		}
		if strings.Contains(env, "_FILE") && c.Egress.Proxy != "https://:hunter2@proxy.example" {
			t.Errorf("from a file: %q", c.Egress.Proxy)
		}
	}
}

func TestPrintJSON_NestsValuesBesideOrigins(t *testing.T) {
	c := mustLoad(t, LoadOptions{Environ: []string{"RELAY_DATABASE_URL=postgres://u:hunter2@h/d", "RELAY_LOG_LEVEL=warn"}})
	var out bytes.Buffer
	if err := PrintJSON(&out, c); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Values struct {
			Database struct{ URL string }
			Deliver  struct {
				Retry struct {
					Schedule []string
					Jitter   float64
				}
			}
			Egress struct {
				Allow []string
				Ports []int
			}
		}
		Origins map[string]string
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	v := got.Values
	if v.Database.URL != "postgres://u:***@h/d" || len(v.Deliver.Retry.Schedule) != 11 || v.Deliver.Retry.Jitter != 0.2 ||
		v.Egress.Allow == nil || !slices.Equal(v.Egress.Ports, []int{80, 443}) {
		t.Errorf("got %+v", v)
	}
	if got.Origins["log.level"] != "env RELAY_LOG_LEVEL" || len(got.Origins) != len(settings) {
		t.Errorf("origins: got %v", got.Origins)
	}
}

func TestRedact_MasksEveryPassword(t *testing.T) {
	for conn, want := range map[string]string{
		"postgres://u:hunter2@h:5432/d":                     "postgres://u:***@h:5432/d",
		"postgres://u:hunter2@h1:1,h2:2/d?sslmode=disable":  "postgres://u:***@h1:1,h2:2/d?sslmode=disable",
		"postgres://u@h/d":                                  "postgres://u@h/d",
		"postgres://h/d":                                    "postgres://h/d",
		"postgres://u:hunter2@hunter2:x@h/d":                "postgres://u:***@h/d",
		"postgres://u:a?hunter2@h/d":                        "postgres://u:***@h/d",
		"postgres://h/d?user=u&password=hunter2":            "postgres://h/d?user=u&password=***",
		"postgres://h/d?pass%77ord=hunter2&sslmode=disable": "postgres://h/d?pass%77ord=***&sslmode=disable",
		"postgres://h/d?sslpassword=hunter2":                "postgres://h/d?sslpassword=***",
		"host=h user=u password=hunter2 dbname=d":           "host=h user=u password=*** dbname=d",
		`host=h password = 'hunter2 \' hunter2' dbname=d`:   "host=h password = *** dbname=d",
		`host=h password=hunter2\ hunter2 dbname=d`:         "host=h password=*** dbname=d",
		"": "",
	} {
		if got := Redact(conn); got != want {
			t.Errorf("%s: got %s, want %s", conn, got, want)
		}
	}
}

func TestSchema_AcceptsWhatLoadAcceptsAndRefusesMistakes(t *testing.T) {
	b, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("relay.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("relay.json")
	if err != nil {
		t.Fatal(err)
	}
	validate := func(path string) error {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := yaml.Unmarshal(text, &v); err != nil {
			return err
		}
		return schema.Validate(v)
	}
	if err := validate(reference); err != nil {
		t.Errorf("reference: %v", err)
	}
	if err := validate(write(t, "relay.yaml", "log:\nhttp: {ops_listen: }\negress: {ports: 443, deny: '10.0.0.0/8,h'}\n")); err != nil {
		t.Errorf("short forms: %v", err)
	}
	for _, name := range []string{"unknown_key", "unknown_section", "misplaced_key", "duration_without_unit",
		"duration_in_days", "size_decimal", "jitter_above_one", "schedule_empty", "value_is_list", "section_is_value",
		"enum", "boolean", "slot_name", "table_without_schema", "port_too_high", "integer_out_of_range", "version",
		"value_missing"} {
		if validate(filepath.Join("testdata", name+".yaml")) == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// Whatever pgx takes for a password is not in what Redact leaves of the connection string.
func FuzzRedact(f *testing.F) {
	f.Add("postgres://u:", "hunter2", "@h:5432/d?sslmode=disable")
	f.Add("postgres://h/d?user=u&password=", "hunter2", "&sslmode=disable")
	f.Add("host=h password='", "hunter2", "' dbname=d")
	f.Add("host=h password=", "hun\\ ter2", " dbname=d")
	f.Add("postgres://h/d?pass%77ord=", "a://hunter2@", "#x")
	f.Fuzz(func(t *testing.T, before, password, after string) {
		conn := before + password + after
		c, err := pgx.ParseConfig(conn)
		if err != nil || len(password) < 6 || c.Password != password || strings.Contains(before+after, password) {
			return
		}
		if got := Redact(conn); strings.Contains(got, password) {
			t.Errorf("%q: got %q with the password %q", conn, got, password)
		}
	})
}
