package audit

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/outbox"
)

// namedMissing is how many missing deliveries a Report names.
const namedMissing = 100

// subscriptionMargin is how much older than a row the rules of a subscription must be, so that the
// row is expected to have met it: both times are of the beginning of a transaction.
const subscriptionMargin = 10 * time.Second

// Report says what became of the rows of a stretch of time.
type Report struct {
	From      time.Time `json:"from"`
	To        time.Time `json:"to"`
	Committed int       `json:"committed"` // rows in the table
	// InProgress are those that no marker proves yet; nothing more is said of them.
	InProgress int `json:"in_progress"`
	Unmatched  int `json:"unmatched"`  // no subscription wants them
	Suppressed int `json:"suppressed"` // say nothing
	NoEvents   int `json:"no_events"`  // in quarantine, or discarded from there
	// Deliveries are the pairs of a row and a subscription that wants it. Each is
	// recorded, as ended or waiting, or the markers alone prove that it was settled,
	// because the record is not kept, or it is missing.
	Deliveries int       `json:"deliveries"`
	Recorded   int       `json:"recorded"`
	Proved     int       `json:"proved_without_record"`
	Missing    int       `json:"missing"`
	Named      []Missing `json:"missing_deliveries"` // the first hundred
}

// Missing is a delivery of which there is no trace.
type Missing struct {
	EventID        uuid.UUID `json:"event_id"`
	SubscriptionID uuid.UUID `json:"subscription_id"`
	Event          string    `json:"event"`
	CreatedAt      time.Time `json:"created_at"`
}

// ReportOptions say what is looked at.
type ReportOptions struct {
	Slot     string
	From, To time.Time // by the rows' created_at; To is not among them
	Mapping  outbox.MappingOptions
	Catalog  *outbox.Catalog
	// Records tells whether every ended delivery leaves a record.
	Records bool
}

// Reporter reads what a Report needs. A pgx connection or pool does.
type Reporter interface {
	Beginner
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// setAside are the deliveries of which the database refuses the record. Those are events, so their ids are UUIDs.
const setAside = `
                   UNION ALL SELECT event_id::uuid, unnest(only_for) FROM relay.quarantine WHERE only_for IS NOT NULL AND event_id ~ '^[0-9a-f-]{36}$'`

// recorded joins what is on record of each row: the subscriptions of its deliveries that
// ended or wait, and whether it is in quarantine. Ids are compared as text: the table's may
// be of that type.
const recorded = `
LEFT JOIN (SELECT event_id::text AS event_id, string_agg(subscription_id::text, ' ') AS subscriptions
             FROM (SELECT event_id, subscription_id FROM relay.deliveries WHERE created_at >= $1::timestamptz - interval '1 day'
                      AND (replay_id IS NULL OR status <> 'CANCELLED')
                   UNION ALL SELECT event_id, subscription_id FROM relay.parked` + setAside + `) AS d GROUP BY d.event_id) AS r ON r.event_id = e.%[1]s::text
LEFT JOIN (SELECT DISTINCT event_id FROM relay.rejected) AS q ON q.event_id = e.%[1]s::text
LEFT JOIN relay.progress AS p ON p.slot = $3`

// Quarantined is what the expression of OnRecord says of a row that is in quarantine, or was discarded from there.
const Quarantined = "quarantined"

// OnRecord returns a join, for outbox.TableQuery, and an expression that names the
// subscriptions to which a row's delivery through the stream has ended or waits, and tells
// whether it is in quarantine. A delivery of a replay counts when it arrived.
func OnRecord(id string) (join, expression string) {
	id = pgx.Identifier{"e", id}.Sanitize() + "::text"
	return `LEFT JOIN (SELECT event_id::text AS event_id, string_agg(subscription_id::text, ' ') AS subscriptions
             FROM (SELECT event_id, subscription_id FROM relay.deliveries WHERE replay_id IS NULL OR status = 'DELIVERED'
                   UNION SELECT event_id, subscription_id FROM relay.parked WHERE replay_id IS NULL` + setAside + `) AS d GROUP BY 1) AS r ON r.event_id = ` + id + `
LEFT JOIN (SELECT DISTINCT event_id FROM relay.rejected) AS q ON q.event_id = ` + id,
		`concat_ws(' ', CASE WHEN q.event_id IS NOT NULL THEN '` + Quarantined + `' END, r.subscriptions)`
}

// MakeReport looks at every row of a stretch of time that is still in the table, and at
// what is on record of each delivery that it should have.
func MakeReport(ctx context.Context, db Reporter, o ReportOptions) (*Report, error) {
	rep := &Report{From: o.From, To: o.To, Named: []Missing{}}
	o.Mapping.Retained = true
	mapper, err := outbox.NewMapper(o.Mapping, o.Catalog)
	if err != nil {
		return nil, err
	}
	// What is sent does not matter here, so every URL will do, and no secret is needed.
	dir := deliver.NewDirectory(func(_, raw string) (*url.URL, error) { return url.Parse(raw) }, nil, nil)
	if _, _, err := dir.Load(ctx, db); err != nil {
		return nil, err
	}
	tx, err := Table{Name: o.Mapping.Table}.BeginReading(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	c := o.Mapping.Columns
	quote := func(name string) string { return pgx.Identifier{name}.Sanitize() }
	err = outbox.ReadRows(ctx, tx, outbox.TableQuery{
		Table: o.Mapping.Table, Columns: c, Join: fmt.Sprintf(recorded, quote(c.ID)),
		Beside: fmt.Sprintf(`CASE WHEN pg_visible_in_snapshot(e.%s, p.marker) THEN 'proved' ELSE 'open' END || ' ' ||
CASE WHEN q.event_id IS NULL THEN 'free' ELSE 'quarantined' END || ' ' || coalesce(r.subscriptions, '')`, quote(c.XID)),
		Where: fmt.Sprintf("e.%[1]s >= $1::timestamptz AND e.%[1]s < $2::timestamptz", quote(c.CreatedAt)),
		Args:  []any{o.From, o.To, o.Slot},
	}, func(row cdc.Row, beside []byte) error { return rep.add(row, string(beside), mapper, dir, o.Records) })
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return rep, nil
}

func (r *Report) add(row cdc.Row, beside string, mapper *outbox.Mapper, dir *deliver.Directory, records bool) error {
	r.Committed++
	words := strings.Fields(beside)
	if words[0] == "open" {
		r.InProgress++
		return nil
	}
	event, err := mapper.Map(row)
	var rejection *outbox.Rejection
	switch {
	case words[1] == "quarantined", errors.As(err, &rejection):
		r.NoEvents++
		return nil
	case errors.Is(err, outbox.ErrSuppressed):
		r.Suppressed++
		return nil
	case err != nil:
		return err
	}
	known := make(map[string]bool)
	for _, s := range words[2:] {
		known[s] = true
	}
	wanted := false
	for _, ep := range dir.Route(event.TenantID, event.Type, event.Payload) {
		s := ep.Subscription()
		have := known[s.ID.String()]
		if !have && s.Since().Add(subscriptionMargin).After(event.CreatedAt) {
			continue // it came later, or wanted other events then, and may not have met the row
		}
		wanted = true
		r.Deliveries++
		switch {
		case have:
			r.Recorded++
		case !records:
			r.Proved++
		default:
			r.Missing++
			if len(r.Named) < namedMissing {
				r.Named = append(r.Named, Missing{EventID: event.ID, SubscriptionID: s.ID, Event: event.Type, CreatedAt: event.CreatedAt})
			}
		}
	}
	if !wanted {
		r.Unmatched++
	}
	return nil
}
