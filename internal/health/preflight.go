package health

import (
	"context"
	_ "embed" // the statement
	"fmt"
	"slices"
	"strings"
)

//go:embed preflight.sql
var preflightSQL string

// Finding is what Preflight says of a server that is not ready for the relay.
type Finding struct {
	Condition
	// Migrate says that the schema cannot be made either. Else only the relay cannot run.
	Migrate bool
}

// Preflight looks whether a server has what a relay needs before its first start: the settings, a free slot, and the
// rights of its roles. The conditions are those that a relay would come to.
func Preflight(ctx context.Context, db Rows, f Facts) ([]Finding, error) {
	schema, table, _ := strings.Cut(f.Table, ".")
	replicator := orElse(f.ReplicationRole, f.Role)
	rows, err := db.Query(ctx, preflightSQL, f.Slot, replicator, f.Publication, schema, table)
	if err != nil {
		return nil, fmt.Errorf("check the server: %w", err)
	}
	defer rows.Close()
	var (
		role, walLevel                             string
		readOnly, slot, create, schemas, published bool
		slots, used                                int
		replicates, owns                           *bool // nil: there is no such role, or table
	)
	if !rows.Next() {
		return nil, fmt.Errorf("check the server: %w", rows.Err())
	}
	if err := rows.Scan(&role, &walLevel, &readOnly, &slots, &used, &slot, &replicates, &create, &schemas, &published, &owns); err != nil {
		return nil, fmt.Errorf("check the server: %w", err)
	}
	var list []Finding
	add := func(migrates bool, role string, r rule) {
		names := f.names(role, f.Database)
		list = append(list, Finding{Condition{State: r.state, Sentence: names.Replace(r.sentence), Remedy: names.Replace(r.remedy)}, migrates})
	}
	if readOnly {
		add(true, role, readOnlyRule())
	}
	if !create && !schemas {
		add(true, role, find("42501", Migrate, "for database"))
	}
	if walLevel != "logical" {
		add(false, role, find("55000", "", "wal_level"))
	}
	if !slot && used >= slots {
		r := find("53400", CreateSlot, "")
		r.remedy = strings.Replace(r.remedy, "max_replication_slots = one more", fmt.Sprintf("max_replication_slots = %d", used+1), 1)
		add(false, role, r)
	}
	if replicates != nil && !*replicates {
		add(false, replicator, find("42501", ConnectReplication, ""))
	}
	if !published && (!create || owns != nil && !*owns) {
		add(false, role, find("42501", CreatePublication, ""))
	}
	return list, nil
}

// find returns the rule of a code, a situation and a word.
func find(code string, during Situation, says string) rule {
	return rules[slices.IndexFunc(rules, func(r rule) bool {
		return r.code == code && r.says == says && (r.during == nil || slices.Contains(r.during, during))
	})]
}
