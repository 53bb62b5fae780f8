package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/outbox"
)

// quarantined is a row of relay.quarantine.
type quarantined struct {
	at      place
	reason  string
	raw     []byte // nil: the row is in the outbox only
	eventID string
	xid     uint64
	only    []string // subscriptions whose delivery it is; none: the row, for all
}

// retryQuarantine maps a quarantined row again. It becomes an event, or stays with its new reason.
func (l *leader) retryQuarantine(ctx context.Context, conn *pgx.Conn, r request) error {
	id, err := strconv.ParseInt(r.target, 10, 64)
	if err != nil {
		l.dispatcher.Dismiss(r.id)
		return nil
	}
	var q quarantined
	var commit string
	var xid int64
	err = conn.QueryRow(ctx, `SELECT commit_lsn::text, row_index, committed_at, reason, raw, coalesce(event_id, ''), coalesce(xid, 0), only_for::text[]
		FROM relay.quarantine WHERE id = $1`, id).Scan(&commit, &q.at.index, &q.at.at, &q.reason, &q.raw, &q.eventID, &xid, &q.only)
	if errors.Is(err, pgx.ErrNoRows) {
		l.dispatcher.Dismiss(r.id)
		return nil
	}
	if err != nil {
		return fmt.Errorf("read quarantined row %d: %w", id, err)
	}
	lsn, err := parseLSN(commit)
	if err != nil {
		return err
	}
	q.at.commit, q.xid = uint64(lsn), uint64(xid) // #nosec G115 -- the bits, as PostgreSQL casts it
	if q.reason == deliver.ReasonUnrecorded {
		l.dispatcher.Release(&deliver.Flight{}, nil, r.id, id) // it has arrived
		return nil
	}
	reason, detail, err := l.sendQuarantined(ctx, q, r.id, id)
	if err != nil || reason == "" {
		return err
	}
	if _, err := conn.Exec(ctx, "UPDATE relay.quarantine SET reason = $2, detail = $3 WHERE id = $1", id, reason, detail); err != nil {
		return fmt.Errorf("update quarantined row %d: %w", id, err)
	}
	l.dispatcher.Dismiss(r.id)
	return nil
}

// sendQuarantined sends the event of a quarantined row on its way, or returns for what reason the row stays.
func (l *leader) sendQuarantined(ctx context.Context, q quarantined, request, id int64) (reason, detail string, err error) {
	row, err := l.quarantinedRow(ctx, q)
	var rejection *outbox.Rejection
	if errors.As(err, &rejection) {
		return string(rejection.Reason), rejection.Detail, nil
	}
	if err != nil {
		return "", "", err
	}
	options := mappingOptions(l.d.cfg())
	options.Retained = len(q.only) > 0 // it was an event already
	mapper, err := outbox.NewMapper(options, l.d.catalog.Load())
	if err != nil {
		return "", "", err
	}
	event, err := mapper.Map(row)
	if errors.As(err, &rejection) && q.raw != nil {
		// It may be of a shape that the table had for a while, and its columns lie elsewhere by now.
		if now, readErr := l.rowOfNow(ctx, row); readErr != nil {
			return "", "", readErr
		} else if now != nil {
			event, err = mapper.Map(*now)
		}
	}
	switch {
	case errors.Is(err, outbox.ErrSuppressed):
		l.dispatcher.Release(&deliver.Flight{}, nil, request, id)
		return "", "", nil
	case errors.As(err, &rejection):
		return string(rejection.Reason), rejection.Detail, nil
	case err != nil:
		return string(outbox.ReasonInvalidPayload), "the kept row cannot be read", nil
	}
	eps := l.dir.Route(event.TenantID, event.Type, event.Payload)
	if len(q.only) > 0 {
		eps = slices.DeleteFunc(slices.Clone(eps), func(ep *deliver.Endpoint) bool {
			return !slices.Contains(q.only, ep.Subscription().ID.String())
		})
	}
	l.dispatcher.Release(flight(&event, q.at, nil), eps, request, id)
	return "", "", nil
}

// quarantinedRow is the row as it was kept, or else as the outbox still has it.
func (l *leader) quarantinedRow(ctx context.Context, q quarantined) (cdc.Row, error) {
	if q.raw != nil {
		row, err := outbox.DecodeRow(q.raw)
		if err != nil {
			return row, &outbox.Rejection{Reason: outbox.ReasonInvalidPayload, Detail: "the kept row cannot be read"}
		}
		return row, nil
	}
	m := mappingOptions(l.d.cfg())
	if _, err := uuid.Parse(q.eventID); err != nil {
		return cdc.Row{}, &outbox.Rejection{Reason: outbox.Reason(q.reason), Detail: "the row is not kept, and its id is not known"}
	}
	begin := l.d.auditTable().BeginNarrow
	if q.xid == 0 || m.Columns.XID == "" { // there is no index then
		q.xid, begin = 0, l.d.auditTable().BeginReading
	}
	tx, err := begin(ctx, l.d.pool)
	if err != nil {
		return cdc.Row{}, fmt.Errorf("read quarantined row from the outbox: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	var found cdc.Row
	err = outbox.ReadPlaces(ctx, tx, m.Table, m.Columns, []outbox.Place{{ID: q.eventID, XID: q.xid}}, func(row cdc.Row) { found = row })
	if err != nil {
		return cdc.Row{}, err
	}
	if found.Relation == nil {
		return cdc.Row{}, &outbox.Rejection{Reason: outbox.Reason(q.reason), Detail: "the row is not kept, and the outbox does not have it any more"}
	}
	return found, nil
}

// rowOfNow is a quarantined row as the outbox has it now, when the table has another shape than the row; nil when it has not, or
// when the row cannot be told from others.
func (l *leader) rowOfNow(ctx context.Context, row cdc.Row) (*cdc.Row, error) {
	tx, err := l.d.auditTable().BeginReading(ctx, l.d.pool)
	if err != nil {
		return nil, fmt.Errorf("read quarantined row from the outbox: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	var found []cdc.Row
	if err := outbox.ReadLike(ctx, tx, l.d.cfg().Outbox.Table, row, func(r cdc.Row) { found = append(found, r) }); err != nil {
		return nil, err
	}
	if len(found) != 1 {
		return nil, nil
	}
	return &found[0], nil
}
