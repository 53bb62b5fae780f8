package progress

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/health"
)

// Binding is what the progress of a slot belongs to: its position and its marker mean something for this table, as this
// publication shows it, in this database, and for nothing else.
type Binding struct {
	Database    string `json:"database"`
	DatabaseOID uint32 `json:"-"`
	Publication string `json:"publication"`
	Table       string `json:"table"` // schema.table
	TableOID    uint32 `json:"-"`     // 0: there is no such table
}

// IsZero reports whether nothing is on record, because an older relay has made the progress.
func (b Binding) IsZero() bool { return b.Table == "" }

// ErrOtherIdentity is returned when a relay is started for something else than what progress belongs to.
var ErrOtherIdentity = errors.New("the relay's identity has changed")

// ReadBinding looks at what a publication and a table are in the database of db.
func ReadBinding(ctx context.Context, db cdc.Queryer, publication, table string) (Binding, error) {
	b := Binding{Publication: publication, Table: table}
	err := db.QueryRow(ctx, "SELECT datname, oid, coalesce(to_regclass($1)::oid, 0) FROM pg_database WHERE datname = current_database()",
		pgx.Identifier(strings.SplitN(table, ".", 2)).Sanitize()).Scan(&b.Database, &b.DatabaseOID, &b.TableOID)
	if err != nil {
		return b, fmt.Errorf("look at the outbox: %w", err)
	}
	return b, nil
}

// CheckBinding refuses a relay that would read something else than what progress belongs to: what the stream does not show of it,
// and the rows that are not read from it meanwhile, nobody would miss. onServer is the system identifier of the server
// that have was read from: oids, and the name of the database, mean nothing on another one, to which progress came by a
// restore or an upgrade.
//
// A table or a database that was renamed is the same. So is a table that has taken the name of another: swapping
// tables is how some people empty them.
func (s State) CheckBinding(slot string, have Binding, onServer string) error {
	var was, is, keys []string
	differ := func(what, key, recorded, configured string) {
		was, is, keys = append(was, what+" "+recorded), append(is, what+" "+configured), append(keys, key)
	}
	if s.Slot != slot {
		differ("slot", "cdc.slot", s.Slot, slot)
	}
	if !s.Binding.IsZero() {
		if !s.sameTable(have, onServer) {
			differ("table", "outbox.table", s.Binding.Table, have.Table)
		}
		if s.Binding.Publication != have.Publication {
			differ("publication", "cdc.publication", s.Binding.Publication, have.Publication)
		}
		if !s.sameDatabase(have, onServer) {
			differ("database", "database.url", s.Binding.Database, have.Database)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	return health.Errorf(health.Misconfigured, fmt.Sprintf("correct %s (is the configuration file the right one?), or move the relay on purpose: "+
		"`relay identity move --dry-run` tells what that does", strings.Join(keys, ", ")),
		"%w: the progress on record belongs to %s, and this relay is configured for %s", ErrOtherIdentity, strings.Join(was, ", "), strings.Join(is, ", "))
}

func (s State) sameTable(have Binding, onServer string) bool {
	return s.Binding.Table == have.Table ||
		s.SystemID == onServer && s.sameDatabase(have, onServer) && have.TableOID != 0 && s.Binding.TableOID == have.TableOID
}

func (s State) sameDatabase(have Binding, onServer string) bool {
	return s.SystemID != onServer || s.Binding.Database == have.Database || s.Binding.DatabaseOID == have.DatabaseOID
}

// Bind records what the progress of a slot belongs to. Only the leader of its epoch may.
func Bind(ctx context.Context, db cdc.Execer, s State, b Binding) error {
	tag, err := db.Exec(ctx, `UPDATE relay.progress SET database = $3, database_oid = $4, publication = $5, outbox_table = $6, outbox_oid = $7
 WHERE slot = $1 AND epoch = $2`, s.Slot, s.Epoch, b.Database, b.DatabaseOID, b.Publication, b.Table, b.TableOID)
	if err != nil {
		return fmt.Errorf("record what slot %s belongs to: %w", s.Slot, err)
	}
	if tag.RowsAffected() != 1 {
		return fmt.Errorf("record what slot %s belongs to: epoch %d is over", s.Slot, s.Epoch)
	}
	return nil
}

// Slots returns the progress of every slot of the database, the one that was written last first.
func Slots(ctx context.Context, db Rows) ([]State, error) {
	rows, err := db.Query(ctx, "SELECT "+columns+" FROM relay.progress ORDER BY updated_at DESC")
	if err != nil {
		return nil, fmt.Errorf("list progress: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (State, error) { return scan(row) })
	if err != nil {
		return nil, fmt.Errorf("list progress: %w", err)
	}
	return list, nil
}

// Move gives the progress of a slot to another slot, table, publication or database, and ends every older leader's right to
// write. The next start reads the rows that are not on record from the table, as after the loss of a slot. The marker proves
// rows of the table that it was found for: of another one, every row that nothing is on record of is read.
func Move(ctx context.Context, tx pgx.Tx, s State, slot string, to Binding) error {
	keep := s.sameTable(to, s.SystemID)
	tag, err := tx.Exec(ctx, `UPDATE relay.progress
   SET slot = $3, database = $4, database_oid = $5, publication = $6, outbox_table = $7, outbox_oid = $8, moved = true,
       marker = CASE WHEN $9 THEN marker END, marker_lsn = CASE WHEN $9 THEN marker_lsn ELSE '0/0' END,
       marker_at = CASE WHEN $9 THEN marker_at END, epoch = nextval('relay.epochs'), batch = 0, updated_at = now()
 WHERE slot = $1 AND epoch = $2`, s.Slot, s.Epoch, slot, to.Database, to.DatabaseOID, to.Publication, to.Table, to.TableOID, keep)
	if err != nil {
		return fmt.Errorf("move slot %s: %w", s.Slot, err)
	}
	if tag.RowsAffected() != 1 {
		return fmt.Errorf("move slot %s: epoch %d is over, a relay has begun to lead meanwhile", s.Slot, s.Epoch)
	}
	statements := []string{"UPDATE relay.settled SET slot = $2 WHERE slot = $1", "UPDATE relay.incidents SET slot = $2 WHERE slot = $1",
		"UPDATE relay.accounted SET slot = $2 WHERE slot = $1"}
	if !keep { // they count the rows of the other table
		statements[2] = "DELETE FROM relay.accounted WHERE slot IN ($1, $2)"
	}
	for _, sql := range statements {
		if _, err := tx.Exec(ctx, sql, s.Slot, slot); err != nil {
			return fmt.Errorf("move slot %s: %w", s.Slot, err)
		}
	}
	return nil
}
