package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// Problem is the body of every answer that is an error (RFC 9457).
type Problem struct {
	Type      string       `json:"type" format:"uri-reference" doc:"Where this kind of problem is explained." example:"/docs#invalid"`
	Title     string       `json:"title" doc:"The kind of problem in words."`
	Status    int          `json:"status" doc:"The HTTP status."`
	Detail    string       `json:"detail,omitempty" doc:"What was wrong with this call, and the way out."`
	RequestID string       `json:"request_id" doc:"Names this call in the relay's log; X-Request-Id has it too."`
	Errors    []FieldError `json:"errors,omitempty" doc:"The fields at fault."`
}

// FieldError says what is wrong with one part of a call.
type FieldError struct {
	In        string `json:"in" enum:"body,query,path,header" doc:"Part of the call that has the field."`
	Pointer   string `json:"pointer,omitempty" doc:"JSON Pointer (RFC 6901) to a field of the body." example:"/events/0"`
	Parameter string `json:"parameter,omitempty" doc:"Name of a parameter or header." example:"limit"`
	Detail    string `json:"detail" doc:"What is wrong."`
}

// Error implements error.
func (p *Problem) Error() string { return p.Title + ": " + p.Detail }

// GetStatus implements huma.StatusError.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType implements huma.ContentTypeFilter.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// kinds are the problems by status, with the anchor that explains them on the page of the API.
var kinds = map[int]struct{ anchor, title string }{
	http.StatusBadRequest:            {"malformed", "The call cannot be read"},
	http.StatusUnauthorized:          {"unauthorized", "A valid token is needed"},
	http.StatusForbidden:             {"forbidden", "The token does not allow this"},
	http.StatusNotFound:              {"not-found", "There is no such thing"},
	http.StatusMethodNotAllowed:      {"method-not-allowed", "This path does not know the method"},
	http.StatusRequestTimeout:        {"timeout", "The body did not come in time"},
	http.StatusConflict:              {"conflict", "The present state does not allow this"},
	http.StatusPreconditionFailed:    {"precondition-failed", "It has changed meanwhile"},
	http.StatusRequestEntityTooLarge: {"too-large", "The body is too large"},
	http.StatusUnsupportedMediaType:  {"unsupported-media-type", "The body must be JSON"},
	http.StatusUnprocessableEntity:   {"invalid", "A field is invalid"},
	http.StatusTooManyRequests:       {"too-many-requests", "Too many calls"},
	http.StatusInternalServerError:   {"internal", "Something went wrong inside"},
	http.StatusServiceUnavailable:    {"unavailable", "The relay cannot answer now"},
}

// newProblem returns the problem of a status. Another status than the known ones is the nearest of them.
func newProblem(status int, detail string, fields ...FieldError) *Problem {
	kind, ok := kinds[status]
	switch {
	case ok:
	case status >= 500:
		status = http.StatusInternalServerError
		kind = kinds[status]
	default:
		status = http.StatusBadRequest
		kind = kinds[status]
	}
	return &Problem{Type: "/docs#" + kind.anchor, Title: kind.title, Status: status, Detail: detail, Errors: fields}
}

// invalid is the problem of one field of the body; pointer is a JSON Pointer.
func invalid(pointer, detail string) *Problem {
	return newProblem(http.StatusUnprocessableEntity, "", FieldError{In: "body", Pointer: pointer, Detail: detail})
}

func notFound(what string) *Problem {
	return newProblem(http.StatusNotFound, "No "+what+" has this id.")
}

func init() {
	huma.ValidateStrictCasing = true // a name in other letters is an unknown one
	// The library asks these variables for every error that it finds itself.
	huma.NewError = func(status int, detail string, errs ...error) huma.StatusError {
		return libraryProblem(status, detail, errs)
	}
	huma.NewErrorWithContext = func(_ huma.Context, status int, detail string, errs ...error) huma.StatusError {
		return libraryProblem(status, detail, errs)
	}
}

// libraryProblem words what the library found. The values that it would repeat stay out: one may be a secret.
func libraryProblem(status int, detail string, errs []error) *Problem {
	for _, err := range errs {
		var p *Problem
		if errors.As(err, &p) {
			return p
		}
	}
	p := newProblem(status, "")
	if status < http.StatusInternalServerError && detail != "validation failed" {
		p.Detail = sentence(detail)
	}
	for _, err := range errs {
		var d huma.ErrorDetailer
		switch {
		case err == nil:
		case errors.As(err, &d):
			e := d.ErrorDetail()
			p.Errors = append(p.Errors, fieldError(e.Location, e.Message))
		case status < http.StatusInternalServerError:
			p.Detail = sentence(err.Error())
		}
	}
	return p
}

// fieldError turns the library's location, such as body.events[0], into a field.
func fieldError(location, message string) FieldError {
	in, rest, _ := strings.Cut(location, ".")
	if strings.HasPrefix(message, "invalid date/time") { // which goes on with a layout of Go's
		message = "Expected a time of RFC 3339, such as 2026-11-24T10:00:00Z"
		if in == "query" {
			message += "; in a query, the + of a zone is written %2B"
		}
	}
	f := FieldError{In: in, Detail: sentence(message)}
	if in != "body" {
		f.Parameter = rest
		return f
	}
	f.Pointer = pointer(rest)
	return f
}

// pointer makes a JSON Pointer of the library's path, such as events[0] or headers[1].name. A name of the caller's that has
// a full stop or a bracket itself cannot be told from a path; it is bounded, because it is repeated.
func pointer(path string) string {
	if len(path) > maxDetail {
		path = strings.ToValidUTF8(path[:maxDetail], "")
	}
	var b strings.Builder
	for part := range strings.FieldsFuncSeq(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
		b.WriteByte('/')
		b.WriteString(strings.NewReplacer("~", "~0", "/", "~1").Replace(part))
	}
	return b.String()
}

// maxDetail bounds, in bytes, what a problem repeats of the library's words, which may have a name that the caller chose.
const maxDetail = 300

// sentence begins with a capital and ends with a full stop.
func sentence(s string) string {
	if len(s) > maxDetail {
		s = strings.ToValidUTF8(s[:maxDetail], "") + "..."
	}
	if s == "" {
		return ""
	}
	s = strings.ToUpper(s[:1]) + s[1:]
	if !strings.HasSuffix(s, ".") {
		s += "."
	}
	return s
}

// internal notes what went wrong inside and returns what the caller may know of it.
func (s *server) internal(ctx context.Context, doing string, err error) *Problem {
	status, detail := http.StatusInternalServerError, "The request id finds the reason in the relay's log."
	if passing(err) {
		status, detail = http.StatusServiceUnavailable, "The database did not answer in time. Try again in a moment."
	}
	s.Log.Warn("API call failed", "request_id", requestID(ctx), "error", fmt.Errorf("%s: %w", doing, err))
	return newProblem(status, detail)
}
