package main

import (
	"fmt"
	"strings"
	"testing"
)

func TestMigrate_AppliesOnceAndSaysWhat(t *testing.T) {
	t.Parallel()
	s := newEmptyStage(t)
	s.relay("migrate", "status").exits(exitUnhealthy).says("0001_outbox.sql", "pending").complains("run `relay migrate`")
	s.relay("migrate").exits(0).quiet().says("applied 0001_outbox.sql", "applied 0002_relay.sql", "schema is at version")
	s.relay("migrate", "up").exits(0).quiet().says("nothing to do", "schema is at version")
	r := s.relay("migrate", "status").exits(0).quiet()
	if strings.Contains(r.out, "pending") {
		t.Errorf("something is pending after all was applied:\n%s", r.out)
	}
}

func TestMigrate_SaysTheSameInJSON(t *testing.T) {
	t.Parallel()
	s := newEmptyStage(t)
	var status struct{ Items []migrationStep }
	s.relay("migrate", "status", "-o", "json").exits(exitUnhealthy).decode(&status)
	if len(status.Items) < 2 || status.Items[0].Name != "0001_outbox.sql" || status.Items[0].AppliedAt != nil {
		t.Errorf("before: %+v", status)
	}
	var done struct {
		Applied, Functions []string
		Version            int
	}
	s.relay("migrate", "-o", "json").exits(0).decode(&done)
	if len(done.Applied) < 2 || !strings.HasPrefix(done.Applied[len(done.Applied)-1], fmt.Sprintf("%04d_", done.Version)) || len(done.Functions) == 0 {
		t.Errorf("first: %+v", done)
	}
	r := s.relay("migrate", "up", "-o", "json").exits(0)
	r.says(`"applied": []`, `"functions": []`).decode(&done)
	s.relay("migrate", "status", "-o", "json").exits(0).decode(&status)
	for _, step := range status.Items {
		if step.AppliedAt == nil {
			t.Errorf("%s is pending after all was applied", step.Name)
		}
	}
}
