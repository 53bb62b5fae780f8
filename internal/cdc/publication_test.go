package cdc

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-relay/relay/internal/health"
)

func TestPublicationEnsure_MakesItOnceAndRight(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable) // made it
	created, err := o.pub.Ensure(t.Context(), o.db)
	if err != nil || created {
		t.Errorf("second time: created %v, %v", created, err)
	}
	var what string
	err = o.db.QueryRow(t.Context(), `SELECT concat_ws(' ', pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot)
		FROM pg_publication WHERE pubname = 'relay'`).Scan(&what)
	if err != nil || what != "t f f f t" {
		t.Errorf("insert, update, delete, truncate, via root: %q, %v", what, err)
	}
}

func TestPublicationEnsure_NeedsTheTable(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable)
	p := Publication{Name: "other", Schema: "public", Table: "nothing"}
	if created, err := p.Ensure(t.Context(), o.db); err == nil || created || Classify(err) != health.Misconfigured {
		t.Errorf("created %v, %v (%s)", created, err, Classify(err))
	}
}

// rival makes the publication between the check and the statement that would.
type rival struct {
	Execer
	sql string
}

func (r rival) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if _, err := r.Execer.Exec(ctx, r.sql); err != nil {
		return pgconn.CommandTag{}, err
	}
	return r.Execer.Exec(ctx, sql, args...)
}

func TestPublicationEnsure_AcceptsThatAnotherWasFaster(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable)
	o.exec(`DROP PUBLICATION relay`)
	created, err := o.pub.Ensure(t.Context(), rival{o.db,
		`CREATE PUBLICATION relay FOR TABLE events WITH (publish = 'insert', publish_via_partition_root = true)`})
	if err != nil || created {
		t.Errorf("created %v, %v", created, err)
	}
	o.exec(`DROP PUBLICATION relay`)
	if _, err := o.pub.Ensure(t.Context(), rival{o.db, `CREATE PUBLICATION relay`}); !errors.Is(err, ErrPublicationIncomplete) {
		t.Errorf("%v, want ErrPublicationIncomplete", err)
	}
}

func TestPublicationCheck_NamesFaultAndRepair(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, `CREATE TABLE events (id bigint NOT NULL, body text) PARTITION BY RANGE (id);
		CREATE TABLE events_rest PARTITION OF events DEFAULT; CREATE TABLE other (id bigint)`)
	const addTable = `ALTER PUBLICATION "relay" ADD TABLE "public"."events"`
	const dropTable = `ALTER PUBLICATION "relay" DROP TABLE "public"."events"`
	const setOptions = `ALTER PUBLICATION "relay" SET (publish = 'insert', publish_via_partition_root = true)`
	for name, tc := range map[string]struct {
		spoil  string
		faults []string // nil: it is right
	}{
		"right":          {`SELECT 1`, nil},
		"more tables":    {`ALTER PUBLICATION relay ADD TABLE other`, nil},
		"table missing":  {`ALTER PUBLICATION relay SET TABLE other`, []string{"lacks public.events", addTable}},
		"no table":       {`ALTER PUBLICATION relay DROP TABLE events`, []string{"lacks public.events", addTable}},
		"columns":        {`ALTER PUBLICATION relay SET TABLE events (id), other`, []string{"rows or columns", dropTable + "; " + addTable}},
		"row filter":     {`ALTER PUBLICATION relay SET TABLE events WHERE (id > 5)`, []string{"filters its rows", dropTable + "; " + addTable}},
		"no inserts":     {`ALTER PUBLICATION relay SET (publish = 'update')`, []string{"inserts only", setOptions}},
		"updates too":    {`ALTER PUBLICATION relay SET (publish = 'insert, update')`, []string{"inserts only", setOptions}},
		"deletes too":    {`ALTER PUBLICATION relay SET (publish = 'insert, delete')`, []string{"inserts only", setOptions}},
		"truncates too":  {`ALTER PUBLICATION relay SET (publish = 'insert, truncate')`, []string{"inserts only", setOptions}},
		"by leaf":        {`ALTER PUBLICATION relay SET (publish_via_partition_root = false)`, []string{"through the partition root", setOptions}},
		"everything off": {`ALTER PUBLICATION relay SET TABLE other; ALTER PUBLICATION relay SET (publish = 'update')`, []string{addTable, setOptions}},
	} {
		t.Run(name, func(t *testing.T) {
			o.exec(`DROP PUBLICATION relay`)
			if _, err := o.pub.Ensure(t.Context(), o.db); err != nil {
				t.Fatal(err)
			}
			o.exec(tc.spoil)
			err := o.pub.Check(t.Context(), o.db)
			if tc.faults == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, ErrPublicationIncomplete) {
				t.Fatalf("%v, want ErrPublicationIncomplete", err)
			}
			for _, fault := range tc.faults {
				if !strings.Contains(err.Error(), fault) {
					t.Errorf("%q does not say %q", err, fault)
				}
			}
			// Ensure leaves it as it is.
			if created, again := o.pub.Ensure(t.Context(), o.db); created || !errors.Is(again, ErrPublicationIncomplete) {
				t.Errorf("Ensure: created %v, %v", created, again)
			}
			// Repair mends it, and leaves other people's tables in it.
			others := `SELECT count(*) FROM pg_publication_rel WHERE prrelid = 'other'::regclass`
			var before, after int
			if err := o.db.QueryRow(t.Context(), others).Scan(&before); err != nil {
				t.Fatal(err)
			}
			if err := o.pub.Repair(t.Context(), o.db); err != nil {
				t.Error(err)
			}
			if err := o.pub.Check(t.Context(), o.db); err != nil {
				t.Errorf("after Repair: %v", err)
			}
			if err := o.db.QueryRow(t.Context(), others).Scan(&after); err != nil || after != before {
				t.Errorf("%d other tables after Repair, %d before, %v", after, before, err)
			}
			o.exec(`DROP PUBLICATION relay`)
			if _, err := o.pub.Ensure(t.Context(), o.db); err != nil {
				t.Fatal(err)
			}
			o.exec(tc.spoil)
			// The repair that the message gives is a repair.
			_, repair, _ := strings.Cut(err.Error(), "repair: ")
			o.exec(repair)
			if err := o.db.QueryRow(t.Context(), others).Scan(&after); err != nil || after != before {
				t.Errorf("%d other tables after %s, %d before, %v", after, repair, before, err)
			}
			if err := o.pub.Check(t.Context(), o.db); err != nil {
				t.Errorf("after %s: %v", repair, err)
			}
		})
	}
}

func TestPublicationCheck_SaysThatItIsMissing(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable)
	o.exec(`DROP PUBLICATION relay`)
	err := o.pub.Check(t.Context(), o.db)
	if !errors.Is(err, ErrPublicationMissing) || !strings.Contains(err.Error(), "public.events") {
		t.Errorf("%v, want ErrPublicationMissing and the table", err)
	}
}

func TestPublicationCheck_TakesAllTables(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable)
	o.exec(`DROP PUBLICATION relay; CREATE PUBLICATION relay FOR ALL TABLES WITH (publish = 'insert', publish_via_partition_root = true)`)
	if err := o.pub.Check(t.Context(), o.db); err != nil {
		t.Error(err)
	}
	// PostgreSQL refuses to delete from a table without a key, such as ours are, when deletes are published.
	o.exec(`ALTER PUBLICATION relay SET (publish = 'insert, update, delete')`)
	if err := o.pub.Check(t.Context(), o.db); !errors.Is(err, ErrPublicationIncomplete) || !strings.Contains(err.Error(), "publish = 'insert'") {
		t.Errorf("error is %v", err)
	}
}
