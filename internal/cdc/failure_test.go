package cdc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-relay/relay/internal/health"
)

func TestClassify_NamesTheState(t *testing.T) {
	pg := func(code, message string) error {
		return health.During(health.Stream, fmt.Errorf("read replication stream: %w", &pgconn.PgError{Code: code, Message: message}))
	}
	tests := []struct {
		err  error
		want health.State
	}{
		{fmt.Errorf("%w: active for PID 1", ErrSlotTaken), health.Standby},
		{pg("55006", `replication slot "s1" is active for PID 42`), health.Standby},
		{fmt.Errorf("%w: relay", ErrPublicationMissing), health.PublicationMissing},
		{fmt.Errorf("%w: relay", ErrPublicationIncomplete), health.PublicationIncomplete},
		{pg("42704", `publication "p1" does not exist`), health.PublicationMissing},
		{pg("42704", `replication slot "s1" does not exist`), health.SlotMissing},
		{pg("42704", `replication slot "publication" does not exist`), health.SlotMissing},
		{pg("55000", `cannot read from logical replication slot "s1"`), health.SlotLost},
		{pg("55000", `can no longer get changes from replication slot "s1"`), health.SlotLost},
		{pg("55000", `can no longer access replication slot "s1"`), health.SlotLost},
		{pg("55000", `logical decoding requires wal_level >= logical`), health.Misconfigured},
		{pg("57P01", "terminating connection due to administrator command"), health.ShuttingDown},
		{pg("57P02", "terminating connection because of crash"), health.ShuttingDown},
		{pg("57P03", "the database system is shutting down"), health.ShuttingDown},
		{pg("XX000", "invalid memory alloc request size"), health.DecodePoison},
		{pg("22021", `invalid byte sequence for encoding "UTF8": 0xff`), health.DecodePoison},
		{pg("54000", "out of memory"), health.DecodePoison},
		{malformed("short tuple"), health.DecodePoison},
		{pg("28P01", "password authentication failed"), health.Misconfigured},
		{pg("42501", "must be superuser or replication role"), health.Misconfigured},
		{pg("3D000", "database does not exist"), health.Misconfigured},
		{pg("53300", "too many connections"), health.OutOfResources},
		{ErrSilent, health.Unreachable},
		{errors.New("connection refused"), health.Unreachable},
		{context.DeadlineExceeded, health.Unreachable},
	}
	for _, tc := range tests {
		got := Classify(tc.err)
		if got != tc.want {
			t.Errorf("%v: %s, want %s", tc.err, got, tc.want)
		}
		if !slices.Contains(health.States(), got) {
			t.Errorf("%s is not listed in States", got)
		}
	}
}

func TestServerGoesDown_KnowsTheThreeCodes(t *testing.T) {
	for code, want := range map[string]bool{"57P01": true, "57P02": true, "57P03": true, "57014": false, "57P04": false} {
		if got := ServerGoesDown(fmt.Errorf("query: %w", &pgconn.PgError{Code: code})); got != want {
			t.Errorf("%s: %v", code, got)
		}
	}
	if ServerGoesDown(errors.New("EOF")) || ServerGoesDown(nil) {
		t.Error("an error without a code is no shutdown")
	}
}
