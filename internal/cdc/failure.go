package cdc

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-relay/relay/internal/health"
)

// Classify names the state that an error of Connect, CreateSlot, Start or Run
// leaves the stream in.
func Classify(err error) health.State {
	switch {
	case errors.Is(err, ErrSlotTaken):
		return health.Standby
	case errors.Is(err, ErrPublicationMissing):
		return health.PublicationMissing
	case errors.Is(err, ErrPublicationIncomplete):
		return health.PublicationIncomplete
	case errors.Is(err, ErrMalformed):
		return health.DecodePoison
	case errors.Is(err, ErrEnded):
		return health.ShuttingDown
	}
	return health.Diagnose(err, health.Facts{}).State
}

// ServerGoesDown tells whether err says that PostgreSQL is shutting down, or that somebody
// has ended this session alone: see SessionEnded. When it goes down the replication connection
// must be let go at once: nothing can be recorded any more, and the server waits for us.
func ServerGoesDown(err error) bool {
	return hasCode(err, "57P01") || hasCode(err, "57P02") || hasCode(err, "57P03")
}

// SessionEnded tells whether err may be of pg_terminate_backend as well as of a shutdown.
func SessionEnded(err error) bool { return hasCode(err, "57P01") }

// TooManySessions tells whether a server that works has no place for another session.
func TooManySessions(err error) bool { return hasCode(err, "53300") }

func hasCode(err error, code string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == code
}
