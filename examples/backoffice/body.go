package backoffice

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxBody is the largest request body in bytes.
	maxBody = 1 << 20
	// maxText is the longest string value in bytes.
	maxText = 1000
)

// readBody reads the whole body. An empty body needs no content type.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, &problem{status: http.StatusRequestEntityTooLarge, detail: "the body may have 1 MiB"}
	}
	if err != nil {
		return nil, &problem{status: http.StatusBadRequest, detail: "the body could not be read"}
	}
	if len(body) == 0 {
		return body, nil
	}
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/json" {
		return nil, &problem{status: http.StatusUnsupportedMediaType, detail: "send Content-Type: application/json"}
	}
	return body, nil
}

// form is what a request body may hold. Members decode into the pointers given; what was refused is collected, so
// that a caller learns about every member at once.
type form struct {
	targets  map[string]any
	required []string
	faults   []fieldFault
}

func newForm() *form { return &form{targets: make(map[string]any)} }

// require takes a member that must be there and must not be null; a string must not be empty.
func (f *form) require(name string, target any) *form {
	f.required = append(f.required, name)
	return f.allow(name, target)
}

// allow takes a member that may be absent or null.
func (f *form) allow(name string, target any) *form {
	f.targets[name] = target
	return f
}

func (f *form) refuse(name, format string, args ...any) {
	pointer := "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
	f.faults = append(f.faults, fieldFault{Pointer: pointer, Detail: fmt.Sprintf(format, args...)})
}

// decode reads body strictly: one object, exact member names, each once, nothing behind it. An empty body is an empty
// object. The error is a problem: 400 for what is not JSON, 422 for members that were refused.
//
// encoding/json alone would match names without regard to case and let the last duplicate win.
func (f *form) decode(body []byte) error {
	if len(body) > 0 && !utf8.Valid(body) {
		return malformed("the body is not UTF-8")
	}
	if len(body) == 0 {
		body = []byte("{}")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if token, err := d.Token(); err != nil || token != json.Delim('{') {
		return malformed("the body must be a JSON object")
	}
	seen, given := make(map[string]bool), make(map[string]bool)
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return malformed("the body is not JSON: %v", err)
		}
		name, ok := token.(string)
		if !ok {
			return malformed("the body is not JSON")
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return malformed("the body is not JSON: %v", err)
		}
		if seen[name] {
			f.refuse(name, "stands there twice")
			continue
		}
		seen[name] = true
		given[name] = f.take(name, value)
	}
	if _, err := d.Token(); err != nil {
		return malformed("the body is not JSON: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return malformed("there is something behind the JSON object")
	}
	for _, name := range f.required {
		if !given[name] {
			f.refuse(name, "is required")
		}
	}
	return f.err()
}

// take decodes one member. It is false for a value that says nothing: null and the empty string.
func (f *form) take(name string, value json.RawMessage) bool {
	target, known := f.targets[name]
	if !known {
		f.refuse(name, "is not known here; known are: %s", f.names())
		return true
	}
	if string(value) == "null" {
		return false
	}
	if err := json.Unmarshal(value, target); err != nil {
		var wrongType *json.UnmarshalTypeError
		if errors.As(err, &wrongType) {
			f.refuse(name, "must be %s", expected(target))
		} else {
			f.refuse(name, "%v", err)
		}
		return true
	}
	text, ok := target.(*string)
	switch {
	case !ok:
	case strings.ContainsRune(*text, 0):
		f.refuse(name, "must not contain U+0000")
	case len(*text) > maxText:
		f.refuse(name, "may have %d bytes", maxText)
	case *text == "":
		return false
	}
	return true
}

func (f *form) names() string {
	names := make([]string, 0, len(f.targets))
	for name := range f.targets {
		names = append(names, name)
	}
	if len(names) == 0 {
		return "none"
	}
	sort.Strings(names)
	return strings.Join(names, ", ")
}

// checkID refuses what the relay would not take as an aggregate's id: 255 bytes at most, no control characters.
func (f *form) checkID(name, value string) {
	if len(value) > 255 || strings.ContainsFunc(value, unicode.IsControl) {
		f.refuse(name, "may have 255 bytes, none of them of control characters")
	}
}

// err is nil while nothing was refused.
func (f *form) err() error {
	if len(f.faults) == 0 {
		return nil
	}
	return &problem{
		status: http.StatusUnprocessableEntity,
		detail: "members of the body were refused",
		fields: f.faults,
	}
}

func expected(target any) string {
	switch target.(type) {
	case *string:
		return "a string"
	case **int32:
		return "a whole number up to 2147483647"
	default:
		return "of another type"
	}
}

func malformed(format string, args ...any) error {
	return &problem{status: http.StatusBadRequest, detail: fmt.Sprintf(format, args...)}
}

// optional is nil for the empty string.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
