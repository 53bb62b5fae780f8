package e2e_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestRelay_DeliversWhatCommittedAndNothingElse(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 6)
	r := s.start()
	conn, err := pgx.Connect(t.Context(), s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	run := func(sql string, args ...any) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	add := func(key int) { t.Helper(); run(emit, l.tenant, l.keys[key], 3, 20) }

	run("BEGIN")
	add(0)
	run("ROLLBACK")

	run("BEGIN")
	add(1)
	run("SAVEPOINT undone")
	add(2)
	run("ROLLBACK TO SAVEPOINT undone")
	add(3)
	run("COMMIT")

	run("BEGIN")
	add(4)
	if _, err := conn.Exec(t.Context(), "SELECT 1/0"); err == nil {
		t.Fatal("1/0 is no error")
	}
	run("COMMIT") // of a failed transaction: a rollback

	run("BEGIN")
	add(2)
	run("PREPARE TRANSACTION 'kept'")
	run("BEGIN")
	add(5)
	run("PREPARE TRANSACTION 'dropped'")
	run("ROLLBACK PREPARED 'dropped'")

	l.add(0, 1) // comes after all of the above
	eventually(t, "what committed arrives", func() bool { return s.recv.count("all") >= 7 })
	if n := s.recv.count("all"); n != 7 {
		t.Fatalf("%d rows have arrived although the prepared transaction is not committed, want 7", n)
	}
	run("COMMIT PREPARED 'kept'")
	l.settle(patience, all)
	if n := s.recv.count("all"); n != 10 {
		t.Errorf("%d rows have arrived, want 10", n)
	}
	l.check(nil, all)
	r.terminate()
	l.check(nil, all) // nor did the stop bring anything
}
