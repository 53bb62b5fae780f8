package backoffice

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// problem is an answer of RFC 9457 (application/problem+json). As an error it ends a handler and its transaction.
type problem struct {
	status int
	detail string
	fields []fieldFault
}

// fieldFault names one member of the request body that was refused.
type fieldFault struct {
	// Pointer is a JSON pointer (RFC 6901) into the request body.
	Pointer string `json:"pointer"`
	Detail  string `json:"detail"`
}

func (p *problem) Error() string {
	return fmt.Sprintf("%d %s: %s", p.status, http.StatusText(p.status), p.detail)
}

func (p *problem) write(w http.ResponseWriter) {
	body := struct {
		Type   string       `json:"type"`
		Title  string       `json:"title"`
		Status int          `json:"status"`
		Detail string       `json:"detail,omitempty"`
		Errors []fieldFault `json:"errors,omitempty"`
	}{"about:blank", http.StatusText(p.status), p.status, p.detail, p.fields}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.status)
	// The status line is out; a caller that has gone away cannot be told anything more.
	_ = json.NewEncoder(w).Encode(body)
}

// unknown is the one answer for ids that do not exist and for ids of other tenants.
func unknown(noun string) error {
	return &problem{status: http.StatusNotFound, detail: "there is no such " + noun}
}

// conflict says which rule a request runs against.
func conflict(format string, args ...any) error {
	return &problem{status: http.StatusConflict, detail: fmt.Sprintf(format, args...)}
}

// respond writes v as JSON.
func respond(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
	return nil
}
