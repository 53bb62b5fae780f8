package outbox

import (
	"errors"
	"unicode/utf8"
)

// maxDepth is the deepest nesting of a payload: one level less than encoding/json decodes, because the body
// adds one.
const maxDepth = 9_999

// maxMembers is the number of top-level members up to which a document lists them.
const maxMembers = 64

var (
	errNotUTF8 = errors.New("not valid UTF-8")
	errTooDeep = errors.New("nested too deep")
)

// kind is the type of a JSON value; a value has one, a schema allows a set.
type kind uint8

const (
	kindNull kind = 1 << iota
	kindBool
	kindNumber
	kindString
	kindArray
	kindObject
	kindInteger // besides kindNumber: digits alone, with or without a minus sign
)

// member is one top-level member of an object. Its slices alias the document; those of strings lie between
// the quotation marks, escapes unresolved.
type member struct {
	name, value []byte
	kind        kind
	nameEscaped bool
	escaped     bool // the value is a string with escapes
}

// document is what one pass over a JSON text finds out.
type document struct {
	kind    kind
	members []member
	// listed tells that members is complete.
	listed bool
	// hugeNumber tells that some number has more digits, or a larger exponent, than validation computes with.
	hugeNumber bool
}

// syntaxError is the offset of the first byte that cannot stand where it does.
type syntaxError int

func (e syntaxError) Error() string { return "not valid JSON" }

// scanDocument checks that text is one JSON value in UTF-8, as encoding/json would, and notes what validation
// needs. The members are appended to buf, which may be nil.
func scanDocument(text []byte, buf []member) (document, error) {
	if !utf8.Valid(text) {
		return document{}, errNotUTF8
	}
	s := scanner{text: text, doc: document{members: buf[:0], listed: true}}
	i := s.space(0)
	end, k, _, err := s.value(i, 1)
	if err != nil {
		return document{}, err
	}
	if end = s.space(end); end != len(text) {
		return document{}, syntaxError(end)
	}
	s.doc.kind = k
	return s.doc, nil
}

type scanner struct {
	text []byte
	doc  document
}

func (s *scanner) space(i int) int {
	for i < len(s.text) {
		switch s.text[i] {
		case ' ', '\t', '\n', '\r':
			i++
		default:
			return i
		}
	}
	return i
}

// value reads the value at i, which is at the given level if it is an array or an object, and returns where it
// ends. It calls itself at most maxDepth deep.
func (s *scanner) value(i, level int) (end int, k kind, escaped bool, err error) {
	if i >= len(s.text) {
		return i, 0, false, syntaxError(i)
	}
	switch c := s.text[i]; {
	case c == '"':
		end, escaped, err = s.str(i)
		return end, kindString, escaped, err
	case c == '{' || c == '[':
		if level > maxDepth {
			return i, 0, false, errTooDeep
		}
		if c == '{' {
			end, err = s.object(i, level)
			return end, kindObject, false, err
		}
		end, err = s.array(i, level)
		return end, kindArray, false, err
	case c == '-' || c >= '0' && c <= '9':
		end, k, err = s.number(i)
		return end, k, false, err
	case c == 't':
		end, err = s.word(i, "true")
		return end, kindBool, false, err
	case c == 'f':
		end, err = s.word(i, "false")
		return end, kindBool, false, err
	case c == 'n':
		end, err = s.word(i, "null")
		return end, kindNull, false, err
	}
	return i, 0, false, syntaxError(i)
}

func (s *scanner) object(i, level int) (int, error) {
	i = s.space(i + 1)
	if i < len(s.text) && s.text[i] == '}' {
		return i + 1, nil
	}
	for {
		if i >= len(s.text) || s.text[i] != '"' {
			return i, syntaxError(i)
		}
		nameEnd, nameEscaped, err := s.str(i)
		if err != nil {
			return nameEnd, err
		}
		colon := s.space(nameEnd)
		if colon >= len(s.text) || s.text[colon] != ':' {
			return colon, syntaxError(colon)
		}
		from := s.space(colon + 1)
		end, k, escaped, err := s.value(from, level+1)
		if err != nil {
			return end, err
		}
		if level == 1 {
			s.list(member{
				name: s.text[i+1 : nameEnd-1], value: s.text[from:end],
				kind: k, nameEscaped: nameEscaped, escaped: escaped,
			})
		}
		var more bool
		if i, more, err = s.next(end, '}'); err != nil || !more {
			return i, err
		}
	}
}

func (s *scanner) list(m member) {
	if len(s.doc.members) == maxMembers {
		s.doc.listed = false
		return
	}
	if m.kind == kindString {
		m.value = m.value[1 : len(m.value)-1]
	}
	s.doc.members = append(s.doc.members, m)
}

func (s *scanner) array(i, level int) (int, error) {
	i = s.space(i + 1)
	if i < len(s.text) && s.text[i] == ']' {
		return i + 1, nil
	}
	for {
		var (
			more bool
			err  error
		)
		if i, _, _, err = s.value(i, level+1); err != nil {
			return i, err
		}
		if i, more, err = s.next(i, ']'); err != nil || !more {
			return i, err
		}
	}
}

// next reads what follows an element: a comma and white space, or the closing bracket.
func (s *scanner) next(i int, closing byte) (end int, more bool, err error) {
	i = s.space(i)
	switch {
	case i < len(s.text) && s.text[i] == ',':
		return s.space(i + 1), true, nil
	case i < len(s.text) && s.text[i] == closing:
		return i + 1, false, nil
	}
	return i, false, syntaxError(i)
}

func (s *scanner) word(i int, word string) (int, error) {
	if len(s.text)-i < len(word) || string(s.text[i:i+len(word)]) != word {
		return i, syntaxError(i)
	}
	return i + len(word), nil
}

// str reads the string that begins with the quotation mark at i. That the text is UTF-8 is known.
func (s *scanner) str(i int) (end int, escaped bool, err error) {
	for i++; i < len(s.text); i++ {
		switch c := s.text[i]; {
		case c == '"':
			return i + 1, escaped, nil
		case c < 0x20:
			return i, escaped, syntaxError(i)
		case c == '\\':
			escaped = true
			if i++; i >= len(s.text) {
				return i, escaped, syntaxError(i)
			}
			switch s.text[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				for range 4 {
					if i++; i >= len(s.text) || hexValue(s.text[i]) > 15 {
						return i, escaped, syntaxError(i)
					}
				}
			default:
				return i, escaped, syntaxError(i)
			}
		}
	}
	return i, escaped, syntaxError(i)
}

func (s *scanner) number(i int) (int, kind, error) {
	k, begin := kindNumber|kindInteger, i
	if s.text[i] == '-' {
		i++
	}
	switch {
	case i < len(s.text) && s.text[i] == '0':
		i++
	default:
		from := i
		if i = s.digits(i); i == from {
			return i, 0, syntaxError(i)
		}
	}
	if i < len(s.text) && s.text[i] == '.' {
		k = kindNumber
		from := i + 1
		if i = s.digits(from); i == from {
			return i, 0, syntaxError(i)
		}
	}
	if i < len(s.text) && s.text[i]|0x20 == 'e' {
		k = kindNumber
		i++
		if i < len(s.text) && (s.text[i] == '+' || s.text[i] == '-') {
			i++
		}
		from := i
		if i = s.digits(from); i == from {
			return i, 0, syntaxError(i)
		}
		if i-from > maxExponentDigits {
			s.doc.hugeNumber = true
		}
	}
	if i-begin > maxDigits {
		s.doc.hugeNumber = true
	}
	return i, k, nil
}

func (s *scanner) digits(i int) int {
	for i < len(s.text) && s.text[i] >= '0' && s.text[i] <= '9' {
		i++
	}
	return i
}
