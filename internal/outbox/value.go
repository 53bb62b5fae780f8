package outbox

import (
	"encoding/hex"
	"errors"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
)

// The text forms of column values, as PostgreSQL prints them under the session settings of the stream. The
// parsers accept any bytes and never panic.

const maxName = 255 // bytes of a tenant, an aggregate type, an aggregate id, an event type

var (
	errUUID      = errors.New("must be a UUID such as 0190b6f0-7c1e-7cc2-9d35-4a3e6d2f8b11")
	errTimestamp = errors.New("must be a timestamp such as 2026-11-24 10:00:00.123456+00")
	errInfinity  = errors.New("is infinite, which a timestamp of RFC 3339 cannot say")
	errYear      = errors.New("is outside the years 0001 to 9999, which a timestamp of RFC 3339 cannot say")
	errXID       = errors.New("must be a transaction id, a decimal number below 2^64")
	errBytea     = errors.New("must be bytea in hex format")
	errNameEmpty = errors.New("must not be empty")
	errNameUTF8  = errors.New("must be valid UTF-8")
	errNameCtrl  = errors.New("must not contain control characters")
	errNameLong  = errors.New("must not be longer than 255 bytes")
)

func parseUUID(b []byte) (uuid.UUID, error) {
	var id uuid.UUID
	if len(b) != 36 || b[8] != '-' || b[13] != '-' || b[18] != '-' || b[23] != '-' {
		return uuid.UUID{}, errUUID
	}
	at := 0
	for i := range id {
		if at == 8 || at == 13 || at == 18 || at == 23 {
			at++
		}
		hi, lo := hexValue(b[at]), hexValue(b[at+1])
		if hi > 15 || lo > 15 {
			return uuid.UUID{}, errUUID
		}
		id[i] = hi<<4 | lo
		at += 2
	}
	return id, nil
}

func hexValue(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 0xff
}

// parseTimestamp reads timestamptz and timestamp in ISO style; the latter, which has no offset, as UTC. Old
// dates have offsets with seconds, far ones have years with five and more digits, dates before our era end in
// " BC". The result is in UTC and within the years 1 to 9999.
func parseTimestamp(b []byte) (time.Time, error) {
	if s := string(b); s == "infinity" || s == "-infinity" {
		return time.Time{}, errInfinity
	}
	p := digits{rest: b}
	year := p.number(4, 6)
	p.expect('-')
	month := p.number(2, 2)
	p.expect('-')
	day := p.number(2, 2)
	if !p.take(' ') {
		p.expect('T')
	}
	hour := p.number(2, 2)
	p.expect(':')
	minute := p.number(2, 2)
	p.expect(':')
	second := p.number(2, 2)
	nanos := 0
	if p.take('.') {
		width := len(p.rest)
		nanos = p.number(1, 9)
		for width -= len(p.rest); width < 9; width++ {
			nanos *= 10
		}
	}
	offset := p.offset()
	era := string(p.rest)
	switch {
	case p.bad, era != "" && era != " BC",
		month < 1 || month > 12, day < 1 || day > daysIn(year, month), hour > 23, minute > 59, second > 59:
		return time.Time{}, errTimestamp
	case era == " BC", year < 1:
		return time.Time{}, errYear
	}
	t := time.Date(year, time.Month(month), day, hour, minute, second-offset, nanos, time.UTC)
	if y := t.Year(); y < 1 || y > 9999 {
		return time.Time{}, errYear
	}
	return t, nil
}

// digits reads numbers off the front of a text. After the first mismatch bad is set and stays set.
type digits struct {
	rest []byte
	bad  bool
}

func (p *digits) number(least, most int) int {
	n, i := 0, 0
	for i < len(p.rest) && i < most && p.rest[i] >= '0' && p.rest[i] <= '9' {
		n = n*10 + int(p.rest[i]-'0')
		i++
	}
	if i < least {
		p.bad = true
	}
	p.rest = p.rest[i:]
	return n
}

func (p *digits) take(c byte) bool {
	if len(p.rest) == 0 || p.rest[0] != c {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

func (p *digits) expect(c byte) {
	if !p.take(c) {
		p.bad = true
	}
}

// offset reads +hh, +hh:mm, +hh:mm:ss or Z, and returns seconds east of UTC; 0 when there is none.
func (p *digits) offset() int {
	sign := 1
	switch {
	case p.take('Z'):
		return 0
	case p.take('-'):
		sign = -1
	case !p.take('+'):
		return 0
	}
	hours, minutes, seconds := p.number(2, 2), 0, 0
	if p.take(':') {
		minutes = p.number(2, 2)
		if p.take(':') {
			seconds = p.number(2, 2)
		}
	}
	if hours > 15 || minutes > 59 || seconds > 59 {
		p.bad = true
	}
	return sign * (hours*3600 + minutes*60 + seconds)
}

func daysIn(year, month int) int {
	switch month {
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}

// TimeOfID returns the time that a version 7 UUID carries, and the zero time for any other.
func TimeOfID(id uuid.UUID) time.Time {
	if id.Version() != 7 {
		return time.Time{}
	}
	var ms int64
	for _, c := range id[:6] {
		ms = ms<<8 | int64(c)
	}
	t := time.UnixMilli(ms).UTC()
	if t.Year() > 9999 {
		return time.Time{}
	}
	return t
}

func parseXID(b []byte) (uint64, error) {
	if len(b) == 0 || len(b) > 20 {
		return 0, errXID
	}
	var n uint64
	for _, c := range b {
		d := uint64(c - '0')
		if c < '0' || c > '9' || n > (1<<64-1-d)/10 {
			return 0, errXID
		}
		n = n*10 + d
	}
	return n, nil
}

func parseBytea(b []byte) ([]byte, error) {
	if len(b) < 2 || b[0] != '\\' || b[1] != 'x' {
		return nil, errBytea
	}
	out := make([]byte, hex.DecodedLen(len(b)-2))
	if _, err := hex.Decode(out, b[2:]); err != nil {
		return nil, errBytea
	}
	return out, nil
}

// CheckTenant tells what is wrong with a tenant's id: an event with such a one would be refused, so nothing else may have it.
func CheckTenant(id string) error {
	if id == "" {
		return errNameEmpty
	}
	return checkName([]byte(id))
}

// checkName tells whether b may be a tenant, an aggregate type, an aggregate id or an event type. It must not
// be empty, which is the caller's to check.
func checkName(b []byte) error {
	if len(b) > maxName {
		return errNameLong
	}
	for i := 0; i < len(b); {
		c := b[i]
		if c >= 0x20 && c < 0x7f {
			i++
			continue
		}
		r, size := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && size == 1 {
			return errNameUTF8
		}
		if unicode.IsControl(r) {
			return errNameCtrl
		}
		i += size
	}
	return nil
}
