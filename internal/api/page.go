package api

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/outbox-relay/relay/internal/token"
)

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

// pageCSP lets the page use its own style and nothing else: no script, nothing of another host.
var pageCSP = "default-src 'none'; style-src 'sha256-" + hashOf(pageCSS) + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.StdEncoding.EncodeToString(sum[:])
}

type (
	pageOperation struct {
		ID, Method, Path, Summary, Description string
		Writes                                 bool
		Parameters, Body                       []pageField
		Answers                                []pageAnswer
	}
	pageField struct {
		Name, In, Type, Doc string
		Required            bool
	}
	pageAnswer struct{ Status, Doc, Schema string }
	pageSchema struct {
		Name   string
		Fields []pageField
	}
	pageProblem struct {
		Anchor, Title, Doc string
		Status             int
	}
)

// explanations say what the callers of a kind of problem can do.
var explanations = map[int]string{
	http.StatusBadRequest:            "The call is not what HTTP or JSON expect, or its cursor is not of this list. Mend it; the same call fails again.",
	http.StatusUnauthorized:          "There is no token in the Authorization header, or it is unknown, revoked or expired. Ask your operator for one.",
	http.StatusForbidden:             "The token is good, and its role does not reach this far.",
	http.StatusNotFound:              "There is nothing with this id, or it is another tenant's.",
	http.StatusMethodNotAllowed:      "The header Allow lists the methods that the path knows.",
	http.StatusRequestTimeout:        "The body did not come in time. Send it again.",
	http.StatusConflict:              "What was asked for is not possible in the present state; detail says why.",
	http.StatusPreconditionFailed:    "The ETag in If-Match is not the present one: somebody else changed it. Read it again and decide anew.",
	http.StatusRequestEntityTooLarge: "A body may have one mebibyte.",
	http.StatusUnsupportedMediaType:  "Send Content-Type: application/json.",
	http.StatusUnprocessableEntity:   "errors names each field at fault and says what is expected.",
	http.StatusTooManyRequests:       "Wait for as many seconds as Retry-After says.",
	http.StatusInternalServerError:   "The fault is the relay's. Give the request id to your operator.",
	http.StatusServiceUnavailable:    "The database is away or busy, or too many call at once. Wait for as long as Retry-After says, or a few seconds.",
}

// renderPage writes the document for people.
func renderPage(doc *huma.OpenAPI) ([]byte, error) {
	t, err := template.New("page").Parse(pageHTML)
	if err != nil {
		return nil, err
	}
	data := struct {
		Style           template.CSS
		Version, Prefix string
		Introduction    []string
		Operations      []pageOperation
		Schemas         []pageSchema
		Problems        []pageProblem
	}{Style: template.CSS(pageCSS), Version: doc.Info.Version, Prefix: Prefix, // #nosec G203 -- embedded
		Introduction: strings.Split(strings.ReplaceAll(introduction, "`", ""), "\n\n")}
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		item := doc.Paths[path]
		for _, m := range []struct {
			method string
			op     *huma.Operation
		}{{"GET", item.Get}, {"POST", item.Post}, {"PATCH", item.Patch}, {"DELETE", item.Delete}} {
			if m.op != nil {
				data.Operations = append(data.Operations, pageOf(doc, m.method, path, m.op))
			}
		}
	}
	schemas := doc.Components.Schemas.Map()
	for _, name := range slices.Sorted(maps.Keys(schemas)) {
		if fields := fieldsOf(schemas[name]); len(fields) > 0 {
			data.Schemas = append(data.Schemas, pageSchema{Name: name, Fields: fields})
		}
	}
	for _, status := range slices.Sorted(maps.Keys(kinds)) {
		data.Problems = append(data.Problems, pageProblem{kinds[status].anchor, kinds[status].title, explanations[status], status})
	}
	var out bytes.Buffer
	if err := t.Execute(&out, data); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func pageOf(doc *huma.OpenAPI, method, path string, op *huma.Operation) pageOperation {
	p := pageOperation{ID: op.OperationID, Method: method, Path: path, Summary: op.Summary, Description: op.Description,
		Writes: op.Metadata["role"] == token.RoleTenantWrite}
	for _, q := range op.Parameters {
		p.Parameters = append(p.Parameters, pageField{Name: q.Name, In: q.In, Type: typeOf(q.Schema), Doc: cmp.Or(q.Description, q.Schema.Description),
			Required: q.Required})
	}
	if op.RequestBody != nil {
		for _, content := range op.RequestBody.Content {
			if s := doc.Components.Schemas.SchemaFromRef(content.Schema.Ref); s != nil {
				p.Body = fieldsOf(s)
			}
		}
	}
	for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
		a := pageAnswer{Status: status, Doc: op.Responses[status].Description}
		for _, content := range op.Responses[status].Content {
			a.Schema = content.Schema.Ref[strings.LastIndexByte(content.Schema.Ref, '/')+1:]
		}
		p.Answers = append(p.Answers, a)
	}
	return p
}

func fieldsOf(s *huma.Schema) []pageField {
	var out []pageField
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		q := s.Properties[name]
		out = append(out, pageField{Name: name, Type: typeOf(q), Doc: q.Description, Required: slices.Contains(s.Required, name)})
	}
	return out
}

// typeOf words a schema in short.
func typeOf(s *huma.Schema) string {
	switch {
	case s.Ref != "":
		return s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]
	case len(s.Enum) > 0:
		var parts []string
		for _, v := range s.Enum {
			if text, ok := v.(string); ok {
				parts = append(parts, text)
			}
		}
		return strings.Join(parts, ", ")
	case s.Items != nil:
		return "list of " + typeOf(s.Items)
	}
	t := s.Type
	if s.Format != "" && s.Type == huma.TypeString {
		t = s.Format
	}
	if s.MaxLength != nil {
		t += ", up to " + strconv.Itoa(*s.MaxLength) + " characters"
	}
	if s.Minimum != nil && s.Maximum != nil {
		t += " " + strconv.FormatFloat(*s.Minimum, 'f', -1, 64) + " to " + strconv.FormatFloat(*s.Maximum, 'f', -1, 64)
	}
	if s.Nullable {
		t += " or null"
	}
	return t
}
