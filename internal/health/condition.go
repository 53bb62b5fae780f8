package health

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Condition is what is wrong with a part of the relay.
type Condition struct {
	State State `json:"state"`
	// Sentence says what is wrong, in words that end a log line or a paragraph of /status.
	Sentence string `json:"sentence,omitempty"`
	// Remedy is the statement, the command or the key of the configuration that mends it.
	Remedy string `json:"remedy,omitempty"`
}

// String is the sentence with its remedy.
func (c Condition) String() string {
	switch {
	case c.Remedy == "":
		return c.Sentence
	case c.Sentence == "":
		return c.Remedy
	case strings.Contains(c.Sentence, c.Remedy):
		return c.Sentence
	}
	return c.Sentence + "; " + c.Remedy
}

// Fault is an error that knows its Condition.
type Fault struct {
	Condition Condition // an empty Sentence: that of the error
	Err       error
}

// NewFault returns an error that carries a Condition. It reads as the sentence and the remedy.
func NewFault(c Condition) error { return &Fault{Condition: c} }

// WithCondition adds a Condition to an error. A nil error stays nil.
func WithCondition(err error, c Condition) error {
	if err == nil {
		return nil
	}
	return &Fault{Condition: c, Err: err}
}

func (f *Fault) Error() string {
	if f.Err == nil {
		return f.Condition.String()
	}
	if f.Condition.Remedy == "" {
		return f.Err.Error()
	}
	return f.Err.Error() + "; " + f.Condition.Remedy
}

func (f *Fault) Unwrap() error { return f.Err }

// Situation is what the relay was doing when an error came. The same SQLSTATE means different things in different
// situations, and the words of a server may be in any language.
type Situation string

// The situations that the table knows.
const (
	Connect            Situation = "connect"
	ConnectReplication Situation = "connect for replication"
	CreateSlot         Situation = "create slot"
	Stream             Situation = "stream" // also its start
	CreatePublication  Situation = "create publication"
	Record             Situation = "record"
	ReadOutbox         Situation = "read the outbox"
	Direct             Situation = "work on a connection past the pooler" // of the role of database.replication_url
	Migrate            Situation = "migrate"
)

type situated struct {
	error
	during Situation
}

func (s *situated) Unwrap() error { return s.error }

// During notes what was done when err came; the text of the error stays. The innermost note counts.
func During(s Situation, err error) error {
	if err == nil || situation(err) != "" {
		return err
	}
	return &situated{err, s}
}

func situation(err error) Situation {
	if s, ok := errors.AsType[*situated](err); ok {
		return s.during
	}
	return ""
}

// Facts fill names into sentences and statements. What is not known is said in general words.
type Facts struct {
	Role            string // of database.url
	ReplicationRole string // of database.replication_url; Role when empty
	Database        string
	Table           string // the outbox, schema.table
	Slot            string
	Publication     string
}

func (f Facts) roleOf(s Situation) string {
	if f.ReplicationRole != "" && slices.Contains([]Situation{ConnectReplication, CreateSlot, Stream, Direct}, s) {
		return f.ReplicationRole
	}
	return f.Role
}

func orElse(s, general string) string {
	if s == "" {
		return general
	}
	return s
}

// Lasting reports whether an error is of a kind that no retry mends: a right, a table, a function or a schema is missing.
func Lasting(err error) bool {
	s := Diagnose(err, Facts{}).State
	return s == Misconfigured || s == ReadOnly
}

// Describe is an error in one line: the cause of a refused connection without the attempts that led to it, and what the
// server said in its detail and hint.
func Describe(err error) string { return text(err) }

// Errorf is fmt.Errorf with a Condition whose sentence is the text of the error.
func Errorf(state State, remedy, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &Fault{Condition: Condition{State: state, Remedy: remedy}, Err: err}
}
