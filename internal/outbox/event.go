package outbox

import (
	"encoding/binary"
	"time"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
	"github.com/google/uuid"
)

// Event is one committed row of the outbox, validated.
type Event struct {
	// ID identifies the event towards receivers (webhook-id) and in every table of the relay.
	ID uuid.UUID
	// TenantID, AggregateType and AggregateID are 1 to 255 bytes of valid UTF-8 without control characters.
	TenantID, AggregateType, AggregateID string
	// Type is the whole name, such as payment.received, also when the row held only its last part.
	Type string
	// CreatedAt is the time in the row's created_at, in UTC. Where the row has none, it is the time in a
	// version 7 ID, else the zero time: then whoever knows the commit time sets it before Body is called.
	CreatedAt time.Time
	// Payload is the JSON text exactly as the writer's row holds it. It aliases the row and is not to be
	// changed.
	Payload []byte
	// Headers is the text of a JSON object, or nil. It aliases the row. Only that it is an object is checked,
	// not what is in it.
	Headers []byte
	// XID is the top-level transaction id, 0 when the table has no such column.
	XID uint64
}

// Key returns the ordering key: a hash of tenant, aggregate type and aggregate id. Events with the same three
// names always have the same key. It is stable over versions, because parked deliveries are stored with it.
func (e *Event) Key() uint64 {
	// Each name is preceded by its length: no choice of names can make two different triples the same bytes.
	var stack [256]byte
	buf := appendKeyPart(stack[:0], e.TenantID)
	buf = appendKeyPart(buf, e.AggregateType)
	buf = appendKeyPart(buf, e.AggregateID)
	return xxhash.Sum64(buf)
}

func appendKeyPart(buf []byte, s string) []byte {
	buf = binary.AppendUvarint(buf, uint64(len(s)))
	return append(buf, s...)
}

const (
	bodyID     = `{"id":"`
	bodyType   = `","type":`
	bodyTime   = `,"timestamp":"`
	bodyTenant = `","tenant_id":`
	bodyData   = `,"data":`
	bodyFixed  = len(bodyID) + 36 + len(bodyType) + len(bodyTime) + len(time.RFC3339Nano) + len(bodyTenant) +
		len(bodyData) + 1
)

// Body renders what receivers get: an object of id, type, timestamp, tenant_id and data, in this order and
// without white space between them. The data is Payload byte by byte. Equal events give equal bytes.
func (e *Event) Body() []byte {
	n := bodyFixed + quotedLen(e.Type) + quotedLen(e.TenantID) + max(len(e.Payload), len("null"))
	b := make([]byte, 0, n)
	b = append(b, bodyID...)
	b = appendUUID(b, e.ID)
	b = append(b, bodyType...)
	b = appendQuoted(b, e.Type)
	b = append(b, bodyTime...)
	b = e.CreatedAt.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, bodyTenant...)
	b = appendQuoted(b, e.TenantID)
	b = append(b, bodyData...)
	if len(e.Payload) == 0 {
		b = append(b, "null"...)
	} else {
		b = append(b, e.Payload...)
	}
	return append(b, '}')
}

const hexDigits = "0123456789abcdef"

func appendUUID(b []byte, id uuid.UUID) []byte {
	for i, c := range id {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			b = append(b, '-')
		}
		b = append(b, hexDigits[c>>4], hexDigits[c&0x0f])
	}
	return b
}

// appendQuoted appends s as a JSON string, as encoding/json does with HTML escaping off.
func appendQuoted[T string | []byte](b []byte, s T) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c < utf8.RuneSelf && c != '"' && c != '\\' {
			i++
			continue
		}
		if c < utf8.RuneSelf {
			b = append(b, s[start:i]...)
			b = appendEscape(b, c)
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
		switch {
		case r == utf8.RuneError && size == 1:
			b = append(append(b, s[start:i]...), `\ufffd`...)
			start = i + size
		case r == '\u2028' || r == '\u2029':
			b = append(append(b, s[start:i]...), `\u202`...)
			b = append(b, hexDigits[r&0x0f])
			start = i + size
		}
		i += size
	}
	return append(append(b, s[start:]...), '"')
}

func appendEscape(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\b':
		return append(b, `\b`...)
	case '\f':
		return append(b, `\f`...)
	case '\n':
		return append(b, `\n`...)
	case '\r':
		return append(b, `\r`...)
	case '\t':
		return append(b, `\t`...)
	}
	return append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0x0f])
}

// quotedLen returns at least the number of bytes that appendQuoted appends, and exactly that for text that
// needs no escape.
func quotedLen[T string | []byte](s T) int {
	n := len(s) + 2
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			switch {
			case c == '"' || c == '\\':
				n++
			case c < 0x20:
				n += len(`\u0000`) - 1
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
		if r == utf8.RuneError && size == 1 || r == '\u2028' || r == '\u2029' {
			n += len(`\u0000`) - size
		}
		i += size
	}
	return n
}
