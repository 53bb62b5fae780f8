package cdc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestClassify_NamesTheState(t *testing.T) {
	pg := func(code, message string) error {
		return fmt.Errorf("read replication stream: %w", &pgconn.PgError{Code: code, Message: message})
	}
	tests := []struct {
		err  error
		want State
	}{
		{fmt.Errorf("%w: active for PID 1", ErrSlotTaken), StateStandby},
		{pg("55006", `replication slot "s1" is active for PID 42`), StateStandby},
		{fmt.Errorf("%w: relay", ErrPublicationMissing), StatePublicationMissing},
		{fmt.Errorf("%w: relay", ErrPublicationIncomplete), StatePublicationIncomplete},
		{pg("42704", `publication "p1" does not exist`), StatePublicationMissing},
		{pg("42704", `replication slot "s1" does not exist`), StateSlotMissing},
		{pg("42704", `replication slot "publication" does not exist`), StateSlotMissing},
		{pg("55000", `cannot read from logical replication slot "s1"`), StateSlotLost},
		{pg("55000", `can no longer get changes from replication slot "s1"`), StateSlotLost},
		{pg("55000", `can no longer access replication slot "s1"`), StateSlotLost},
		{pg("55000", `logical decoding requires wal_level >= logical`), StateMisconfigured},
		{pg("57P01", "terminating connection due to administrator command"), StateShuttingDown},
		{pg("57P02", "terminating connection because of crash"), StateShuttingDown},
		{pg("57P03", "the database system is shutting down"), StateShuttingDown},
		{pg("XX000", "invalid memory alloc request size"), StateDecodePoison},
		{pg("22021", `invalid byte sequence for encoding "UTF8": 0xff`), StateDecodePoison},
		{pg("54000", "out of memory"), StateDecodePoison},
		{malformed("short tuple"), StateDecodePoison},
		{pg("28P01", "password authentication failed"), StateMisconfigured},
		{pg("42501", "must be superuser or replication role"), StateMisconfigured},
		{pg("3D000", "database does not exist"), StateMisconfigured},
		{pg("53300", "too many connections"), StateUnreachable},
		{ErrSilent, StateUnreachable},
		{errors.New("connection refused"), StateUnreachable},
		{context.DeadlineExceeded, StateUnreachable},
	}
	for _, tc := range tests {
		got := Classify(tc.err)
		if got != tc.want {
			t.Errorf("%v: %s, want %s", tc.err, got, tc.want)
		}
		if !slices.Contains(States(), got) {
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

func TestExplainRefusal_EndsWithTheWayOut(t *testing.T) {
	for _, c := range []struct{ code, message, want string }{
		{"08P01", "unsupported startup parameter: replication", "set database.replication_url"},
		{"42501", "must be superuser or replication role to start walsender", "ALTER ROLE"},
		{"53300", "number of requested standby connections exceeds max_wal_senders (currently 1)", "raise max_wal_senders"},
	} {
		refused := &pgconn.PgError{Code: c.code, Message: c.message}
		if err := explainRefusal(refused); !strings.Contains(err.Error(), c.want) || !errors.Is(err, refused) {
			t.Errorf("%s: %v, want %q", c.code, err, c.want)
		}
	}
	for _, err := range []error{errors.New("EOF"), &pgconn.PgError{Code: "53300", Message: "sorry, too many clients already"}} {
		if got := explainRefusal(err); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
}
