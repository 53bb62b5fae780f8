package daemon

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/outbox"
)

// A mapper that is no mapper panics on every row.
func TestIntake_QuarantinesARowThatItsMapperPanicsOn(t *testing.T) {
	var log strings.Builder
	in := &intake{log: slog.New(slog.NewTextHandler(&log, nil))}
	row := cdc.Row{Relation: &cdc.Relation{Schema: "outbox", Name: "events"}}
	_, err := in.mapRow(row)
	var rejection *outbox.Rejection
	if !errors.As(err, &rejection) {
		t.Fatalf("error is %v, want a rejection", err)
	}
	if !strings.Contains(rejection.Detail, "defect") || !strings.Contains(log.String(), "panic") {
		t.Errorf("detail %q, log %q", rejection.Detail, log.String())
	}
	catalog, err := outbox.NewCatalog()
	if err != nil {
		t.Fatal(err)
	}
	sound, err := outbox.NewMapper(outbox.MappingOptions{}, catalog)
	if err != nil {
		t.Fatal(err)
	}
	in.next.Store(sound) // as a reload does
	if _, err := in.mapRow(row); !errors.As(err, &rejection) || strings.Contains(rejection.Detail, "defect") {
		t.Errorf("after a reload: %v", err)
	}
}
