package progress

import (
	"errors"
	"strings"
	"testing"
)

func TestCheckBinding_TellsAMistakeFromANewName(t *testing.T) {
	s := State{Slot: "relay", SystemID: "1", Binding: Binding{Database: "app", DatabaseOID: 5, Publication: "relay", Table: "outbox.events", TableOID: 7}}
	same := s.Binding
	with := func(f func(b *Binding)) Binding {
		b := same
		f(&b)
		return b
	}
	for name, c := range map[string]struct {
		slot   string
		have   Binding
		server string
		want   []string // nil: it is accepted
	}{
		"the same":                        {"relay", same, "1", nil},
		"another table":                   {"relay", with(func(b *Binding) { b.Table, b.TableOID = "public.t", 8 }), "1", []string{"table outbox.events", "table public.t", "correct outbox.table"}},
		"a table that is not there":       {"relay", with(func(b *Binding) { b.Table, b.TableOID = "public.t", 0 }), "1", []string{"table public.t"}},
		"a renamed table":                 {"relay", with(func(b *Binding) { b.Table = "outbox.messages" }), "1", nil},
		"a table in another's place":      {"relay", with(func(b *Binding) { b.TableOID = 8 }), "1", nil},
		"another publication":             {"relay", with(func(b *Binding) { b.Publication = "p" }), "1", []string{"publication relay", "publication p", "correct cdc.publication"}},
		"another slot":                    {"other", same, "1", []string{"slot relay", "slot other", "correct cdc.slot"}},
		"another database":                {"relay", with(func(b *Binding) { b.Database, b.DatabaseOID = "copy", 6 }), "1", []string{"database app", "database copy"}},
		"a renamed database":              {"relay", with(func(b *Binding) { b.Database = "app2" }), "1", nil},
		"restored under another name":     {"relay", with(func(b *Binding) { b.Database, b.DatabaseOID, b.TableOID = "copy", 6, 9 }), "2", nil},
		"oids of another server":          {"relay", with(func(b *Binding) { b.Table = "public.t" }), "2", []string{"table public.t"}},
		"oids of another database":        {"relay", Binding{Database: "copy", DatabaseOID: 6, Publication: "relay", Table: "public.t", TableOID: 7}, "1", []string{"table public.t", "database copy"}},
		"two mistakes are both corrected": {"other", with(func(b *Binding) { b.Publication = "p" }), "1", []string{"correct cdc.slot, cdc.publication"}},
	} {
		err := s.CheckBinding(c.slot, c.have, c.server)
		if c.want == nil {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !errors.Is(err, ErrOtherIdentity) {
			t.Errorf("%s: %v, want %v", name, err, ErrOtherIdentity)
			continue
		}
		for _, w := range append(c.want, "relay identity move") {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q does not say %q", name, err, w)
			}
		}
	}
	old := State{Slot: "relay", SystemID: "1"}
	if err := old.CheckBinding("relay", same, "1"); err != nil {
		t.Errorf("progress of an older relay: %v", err)
	}
}
