package outbox

import (
	"errors"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Reason says in one word why a row is no event. The set is closed, so that it may stand in tables, logs and
// metric labels.
type Reason string

// The reasons for a rejection.
const (
	// ReasonUnknownType is an event type that is not in the catalog.
	ReasonUnknownType Reason = "unknown_type"
	// ReasonInvalidPayload is a payload that is not JSON in UTF-8, or does not match the schema of its type.
	ReasonInvalidPayload Reason = "invalid_payload"
	// ReasonMissingField is a required column that is NULL or empty.
	ReasonMissingField Reason = "missing_field"
	// ReasonInvalidColumn is a column whose value cannot be read as what it is mapped to.
	ReasonInvalidColumn Reason = "invalid_column"
	// ReasonTooLarge is a payload or headers value above its limit.
	ReasonTooLarge Reason = "too_large"
	// ReasonTooDeep is a payload that is nested deeper than receivers can decode.
	ReasonTooDeep Reason = "too_deep"
	// ReasonUnmappedColumn is a mapped column that the table does not have, or has no longer.
	ReasonUnmappedColumn Reason = "unmapped_column"
	// ReasonUnexpectedTable is a row of another table than the mapped one.
	ReasonUnexpectedTable Reason = "unexpected_table"
)

// Reasons returns all reasons, in a fixed order.
func Reasons() []Reason {
	return []Reason{
		ReasonUnknownType, ReasonInvalidPayload, ReasonMissingField, ReasonInvalidColumn,
		ReasonTooLarge, ReasonTooDeep, ReasonUnmappedColumn, ReasonUnexpectedTable,
	}
}

// Rejection is the error for a row that cannot become an event.
type Rejection struct {
	Reason Reason
	// Detail says in plain words which column or member is at fault. It is printable text of at most a few
	// hundred bytes and shows no value of the row beyond 100 bytes.
	Detail string
	// EventID, TenantID and EventType are what could be read of them, empty when nothing could. They are not
	// validated, but fit into a text column: valid UTF-8, no NUL, at most 255 bytes.
	EventID, TenantID, EventType string
}

// Error returns reason and detail.
func (r *Rejection) Error() string { return string(r.Reason) + ": " + r.Detail }

// ErrSuppressed marks an event that is valid but says nothing: the member that holds its substance is empty,
// such as a customer.updated without changes. It is counted, not delivered, and is no fault of the row.
var ErrSuppressed = errors.New("event suppressed: it says that nothing changed")

const (
	maxShown  = 100 // bytes of anything that a row brings into a Detail
	maxDetail = 500 // bytes of a Detail
)

// show makes a string that came from a row printable, and cuts it to what a Detail may show.
func show(s string) string {
	cut := cutBytes(s, maxShown)
	q := strconv.Quote(cut)
	if len(cut) < len(s) {
		q += "..."
	}
	return q
}

// plain is show without quotation marks, for text that is merely likely to contain foreign parts.
func plain(s string, limit int) string {
	cut := cutBytes(s, limit)
	if len(cut) < len(s) {
		cut += "..."
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, cut)
}

// storable makes foreign bytes fit for a text column of PostgreSQL.
func storable(b []byte) string {
	s := strings.ToValidUTF8(cutBytes(string(b[:min(len(b), maxName+utf8.UTFMax)]), maxName), "\uFFFD")
	return cutBytes(strings.ReplaceAll(s, "\x00", "\uFFFD"), maxName)
}

// cutBytes cuts s to at most limit bytes without splitting a character.
func cutBytes(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}
