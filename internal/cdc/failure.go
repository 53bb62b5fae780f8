package cdc

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// State is what an operator sees of the stream: a closed set, the same in the
// log, in `relay status` and as the label of relay_state.
type State string

// The states.
const (
	StateStarting              State = "starting"
	StateStreaming             State = "streaming"
	StateStandby               State = "standby_waiting"
	StateUnreachable           State = "pg_unreachable"
	StateShuttingDown          State = "pg_shutting_down"
	StateSlotMissing           State = "slot_missing"
	StateSlotLost              State = "slot_lost"
	StatePublicationMissing    State = "publication_missing"
	StatePublicationIncomplete State = "publication_incomplete"
	StateWrongServer           State = "wrong_server"
	StateDecodePoison          State = "decode_poison"
	StateMisconfigured         State = "misconfigured"
	StateRescuing              State = "rescuing"
	StateDraining              State = "draining"
)

// States lists them all.
func States() []State {
	return []State{StateStarting, StateStreaming, StateStandby, StateUnreachable, StateShuttingDown,
		StateSlotMissing, StateSlotLost, StatePublicationMissing, StatePublicationIncomplete,
		StateWrongServer, StateDecodePoison, StateMisconfigured, StateRescuing, StateDraining}
}

// Classify names the state that an error of Connect, CreateSlot, Start or Run
// leaves the stream in.
//
// Source: https://www.postgresql.org/docs/current/errcodes-appendix.html
func Classify(err error) State {
	switch {
	case errors.Is(err, ErrSlotTaken):
		return StateStandby
	case errors.Is(err, ErrPublicationMissing):
		return StatePublicationMissing
	case errors.Is(err, ErrPublicationIncomplete):
		return StatePublicationIncomplete
	case errors.Is(err, ErrMalformed):
		return StateDecodePoison
	case errors.Is(err, ErrEnded):
		return StateShuttingDown
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return StateUnreachable
	}
	switch pg.Code {
	case "55006":
		return StateStandby
	case "42704":
		// A slot may have the word in its name.
		if strings.HasPrefix(pg.Message, "publication ") {
			return StatePublicationMissing
		}
		return StateSlotMissing
	case "55000":
		if strings.Contains(pg.Message, "wal_level") {
			return StateMisconfigured
		}
		return StateSlotLost
	case "57P01", "57P02", "57P03":
		return StateShuttingDown
	case "XX000", "54000": // a row that is too large to be sent
		return StateDecodePoison
	}
	if strings.HasPrefix(pg.Code, "22") { // bytes that are no text, in a database without an encoding
		return StateDecodePoison
	}
	if strings.HasPrefix(pg.Code, "28") || strings.HasPrefix(pg.Code, "42") || pg.Code == "3D000" || pg.Code == "08P01" {
		return StateMisconfigured
	}
	return StateUnreachable
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

// explainRefusal adds the way out to the error of a refused connection.
func explainRefusal(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	switch {
	case pg.Code == "08P01":
		return fmt.Errorf("%w; a pooler does not pass replication on: set database.replication_url to PostgreSQL itself", err)
	case pg.Code == "42501":
		return fmt.Errorf("%w; type: ALTER ROLE ... REPLICATION", err)
	case pg.Code == "53300" && strings.Contains(pg.Message, "max_wal_senders"):
		return fmt.Errorf("%w; raise max_wal_senders, which takes a restart of PostgreSQL", err)
	}
	return err
}
