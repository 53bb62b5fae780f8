package secret_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/outbox-relay/relay/internal/secret"
)

// canary must not be seen in any output.
const canary = "canary-5f0e1d"

type holder struct {
	Public secret.Secret
	hidden secret.Secret
	Ptr    *secret.Secret
	List   []secret.Secret
	Map    map[secret.Secret]secret.Secret
	Any    any
}

func newHolder() holder {
	s := secret.New(canary)
	return holder{
		Public: s, hidden: s, Ptr: &s, List: []secret.Secret{s},
		Map: map[secret.Secret]secret.Secret{s: s}, Any: s,
	}
}

func TestSecret_NeverPrintsItself(t *testing.T) {
	h := newHolder()
	if h.hidden.Reveal() != canary {
		t.Fatal("the canary is not in the cage")
	}
	values := map[string]any{
		"value": h.Public, "pointer": &h.Public, "struct": h, "struct pointer": &h,
		"unexported field": struct{ s secret.Secret }{h.Public},
		"slice":            []secret.Secret{h.Public}, "map": h.Map, "array": [1]any{h.Public},
	}
	for name, v := range values {
		t.Run(name, func(t *testing.T) {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%T %v", "%10.3s"} {
				args := []any{v}
				if strings.HasPrefix(verb, "%T") {
					args = append(args, v)
				}
				mustNotLeak(t, verb, fmt.Sprintf(verb, args...))
			}
			mustNotLeak(t, "Sprint", fmt.Sprint(v))
			mustNotLeak(t, "Sprintln", fmt.Sprintln("x", v))
			mustNotLeak(t, "Errorf", fmt.Errorf("use %v: %w", v, errors.New("no")).Error())

			for _, handler := range []func(*bytes.Buffer) slog.Handler{
				func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
				func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
			} {
				var out bytes.Buffer
				slog.New(handler(&out)).Info("message", "value", v, slog.Group("g", "value", v))
				mustNotLeak(t, "slog", out.String())
			}

			if b, err := json.Marshal(v); err == nil {
				mustNotLeak(t, "json", string(b))
			}
			if b, err := yaml.Marshal(v); err == nil {
				mustNotLeak(t, "yaml", string(b))
			}
			if b, err := xml.Marshal(v); err == nil {
				mustNotLeak(t, "xml", string(b))
			}
		})
	}
}

func mustNotLeak(t *testing.T, what, out string) {
	t.Helper()
	hex := fmt.Sprintf("%x", canary)
	for _, form := range []string{canary, hex, strings.ToUpper(hex)} {
		if strings.Contains(out, form) {
			t.Errorf("%s shows the secret: %s", what, out)
		}
	}
}

func TestSecret_ShowsThreeStars(t *testing.T) {
	for _, s := range []secret.Secret{{}, secret.New(canary)} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			if got := fmt.Sprintf(verb, s); got != "***" {
				t.Errorf("%s gives %s", verb, got)
			}
		}
		b, err := json.Marshal(map[string]secret.Secret{"k": s})
		if err != nil || string(b) != `{"k":"***"}` {
			t.Errorf("json gives %s, %v", b, err)
		}
		if got := s.LogValue().String(); got != "***" {
			t.Errorf("log value is %s", got)
		}
		if got := s.String(); got != "***" {
			t.Errorf("string is %s", got)
		}
	}
}

func TestSecret_RevealsWhatItWasGiven(t *testing.T) {
	for _, text := range []string{"", "a", canary, "line\nbreak", "\x00\xff", strings.Repeat("x", 1<<16)} {
		s := secret.New(text)
		if s.Reveal() != text {
			t.Errorf("%q came back as %q", text, s.Reveal())
		}
		if s.IsZero() != (text == "") {
			t.Errorf("IsZero of %q is %t", text, s.IsZero())
		}
		if s != secret.New(strings.Clone(text)) {
			t.Errorf("two secrets of %q differ", text)
		}
	}
	if secret.New("a") == secret.New("b") {
		t.Error("different secrets are equal")
	}
}

func TestSecret_IsReadFromConfiguration(t *testing.T) {
	var cfg struct {
		Key secret.Secret `yaml:"key" json:"key"`
	}
	if err := yaml.Unmarshal([]byte("key: "+canary), &cfg); err != nil || cfg.Key.Reveal() != canary {
		t.Errorf("yaml gives %q, %v", cfg.Key.Reveal(), err)
	}
	cfg.Key = secret.Secret{}
	if err := json.Unmarshal([]byte(`{"key":"`+canary+`"}`), &cfg); err != nil || cfg.Key.Reveal() != canary {
		t.Errorf("json gives %q, %v", cfg.Key.Reveal(), err)
	}
}
