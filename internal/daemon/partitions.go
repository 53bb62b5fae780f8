package daemon

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-relay/relay/internal/health"
)

// partitionTrouble says why partitions are not looked after, empty when other parts tell. Where another role owns the table it is
// for that role to do, and the relay stays ready.
func (d *Daemon) partitionTrouble(of string, err error) health.Condition {
	c := d.diagnose(err)
	if _, server := errors.AsType[*pgconn.PgError](err); !server || c.State == health.ShuttingDown || c.State == health.ReadOnly {
		return health.Condition{}
	}
	table := d.cfg().Outbox.Table
	if of != "outbox" {
		table = "relay.deliveries"
	}
	c.Sentence = fmt.Sprintf("partitions of %s are not maintained, so rows pile up in the default partition and old ones stay: %s", table, c.Sentence)
	c.State = health.Degraded
	switch {
	case hasCode(err, "42501"):
		c.State, c.Remedy = health.Streaming, "make and drop them as the role that owns the table, or let the relay's own it: "+c.Remedy
	case hasCode(err, "42P07"):
		c.Remedy = "a table has the name that the partition would get: rename it, or attach it while it is empty"
	}
	return c
}

// worse is the condition of two that decides; an empty one never does.
func worse(a, b health.Condition) health.Condition {
	if a.Sentence == "" || b.State == health.Degraded {
		return b
	}
	return a
}
