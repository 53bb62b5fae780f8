package progress

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/cdc"
)

// Incident is a row of relay.incidents.
type Incident struct {
	ID       int64      `json:"id"`
	Kind     string     `json:"kind"` // rescue, audit, publication or failover
	Detail   string     `json:"detail"`
	BeganAt  time.Time  `json:"began_at"`
	EndedAt  *time.Time `json:"ended_at"` // null: still going on
	RowsRead int        `json:"rows_read"`
	RowsSent int        `json:"rows_sent"`
}

// Incidents returns the latest incidents of a slot, the latest first.
func Incidents(ctx context.Context, db Rows, slot string, limit int) ([]Incident, error) {
	rows, err := db.Query(ctx, `SELECT id, kind, detail, began_at, ended_at, rows_read, rows_sent FROM relay.incidents
 WHERE slot = $1 ORDER BY ended_at IS NULL DESC, id DESC LIMIT $2`, slot, limit)
	if err != nil {
		return nil, fmt.Errorf("load incidents: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Incident])
	if err != nil {
		return nil, fmt.Errorf("load incidents: %w", err)
	}
	return list, nil
}

// NoteIncident notes that something went wrong with a slot's stream.
func NoteIncident(ctx context.Context, db cdc.Queryer, slot, kind, detail string) (id int64, err error) {
	err = db.QueryRow(ctx, "INSERT INTO relay.incidents (slot, kind, detail) VALUES ($1, $2, $3) RETURNING id", slot, kind, detail).Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("note incident: %w", err)
	}
	return id, nil
}

// OpenIncident returns the rescue of a slot that is not at its end yet, 0 for none.
func OpenIncident(ctx context.Context, db cdc.Queryer, slot string) (id int64, err error) {
	err = db.QueryRow(ctx, "SELECT coalesce(max(id), 0) FROM relay.incidents WHERE slot = $1 AND kind = 'rescue' AND ended_at IS NULL", slot).Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("load incident: %w", err)
	}
	return id, nil
}

// EndIncident notes how an incident was mended.
func EndIncident(ctx context.Context, db cdc.Execer, id int64, read, sent int) error {
	_, err := db.Exec(ctx, "UPDATE relay.incidents SET ended_at = now(), rows_read = $2, rows_sent = $3 WHERE id = $1 AND ended_at IS NULL", id, read, sent)
	if err != nil {
		return fmt.Errorf("end incident: %w", err)
	}
	return nil
}

// ProvedAt is when the last marker was found in order, nil for never.
func ProvedAt(ctx context.Context, db cdc.Queryer, slot string) (at *time.Time, err error) {
	err = db.QueryRow(ctx, "SELECT max(marker_at) FROM relay.progress WHERE slot = $1", slot).Scan(&at)
	if err != nil {
		return nil, fmt.Errorf("load marker: %w", err)
	}
	return at, nil
}
