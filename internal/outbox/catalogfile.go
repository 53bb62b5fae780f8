package outbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/agnivade/levenshtein"
	"go.yaml.in/yaml/v3"
)

// FileError is one fault in a catalog file.
type FileError struct {
	File string
	Line int    // from 1; 0 when the fault has no place
	Key  string // path of the key, such as events[2].schema; may be empty
	// Problem says what is wrong and what was expected.
	Problem string
	// Nearest is the valid key that was probably meant, or empty.
	Nearest string
}

func (e *FileError) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	b.WriteString(": ")
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Problem)
	if e.Nearest != "" {
		b.WriteString("; the nearest is " + e.Nearest)
	}
	return b.String()
}

var (
	fileKeys  = []string{"events"}
	eventKeys = []string{"name", "description", "schema", "schema_file", "example", "suppress_when_empty"}

	typeName = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)
)

// catalogFile reads one file into a catalog and gathers its faults.
type catalogFile struct {
	catalog *Catalog
	path    string
	faults  []error
}

func (c *Catalog) load(path string) []error {
	f := &catalogFile{catalog: c, path: path}
	f.read()
	return f.faults
}

func (f *catalogFile) fault(line int, key, format string, args ...any) {
	f.faults = append(f.faults, &FileError{File: f.path, Line: line, Key: key, Problem: fmt.Sprintf(format, args...)})
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

func (f *catalogFile) read() {
	text, err := os.ReadFile(f.path)
	if err != nil {
		f.fault(0, "", "%v", errors.Unwrap(err))
		return
	}
	var doc, second yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	if err = decoder.Decode(&doc); err == nil {
		if err = decoder.Decode(&second); err == nil {
			f.fault(second.Line, "", "a second YAML document; a catalog file is one document")
			return
		}
	}
	if !errors.Is(err, io.EOF) {
		line := 0
		if m := yamlLine.FindStringSubmatch(err.Error()); m != nil && m[1] != "" {
			line, _ = strconv.Atoi(m[1])
		}
		f.fault(line, "", "not valid YAML: %s", yamlLine.ReplaceAllString(err.Error(), ""))
		return
	}
	if len(doc.Content) == 0 {
		f.fault(1, "events", "required, but the file is empty")
		return
	}
	root := doc.Content[0]
	top := f.mapping(root, "", fileKeys)
	if top == nil {
		return
	}
	events, ok := top["events"]
	if !ok {
		f.fault(root.Line, "events", "required, but absent")
		return
	}
	if events.Kind != yaml.SequenceNode {
		f.fault(events.Line, "events", "must be a list of event types")
		return
	}
	for i, node := range events.Content {
		f.event(node, fmt.Sprintf("events[%d]", i))
	}
}

// mapping returns the values of a mapping by key; nil when node is none.
func (f *catalogFile) mapping(node *yaml.Node, path string, known []string) map[string]*yaml.Node {
	if node.Kind != yaml.MappingNode {
		f.fault(node.Line, path, "must be a mapping with the keys %s", strings.Join(known, ", "))
		return nil
	}
	values := map[string]*yaml.Node{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		at := key.Value
		if path != "" {
			at = path + "." + key.Value
		}
		switch {
		case !slices.Contains(known, key.Value):
			f.faults = append(f.faults, &FileError{
				File: f.path, Line: key.Line, Key: at, Problem: "unknown key", Nearest: nearest(key.Value, known),
			})
		case values[key.Value] != nil:
			f.fault(key.Line, at, "given twice")
		default:
			values[key.Value] = value
		}
	}
	return values
}

func (f *catalogFile) text(values map[string]*yaml.Node, path, key string) string {
	node := values[key]
	if node == nil {
		return ""
	}
	if node.Kind != yaml.ScalarNode || node.Tag != "!!str" {
		f.fault(node.Line, path+"."+key, "must be a string")
		return ""
	}
	if node.Value == "" {
		f.fault(node.Line, path+"."+key, "must not be empty")
	}
	return node.Value
}

func (f *catalogFile) event(node *yaml.Node, path string) {
	before := len(f.faults)
	values := f.mapping(node, path, eventKeys)
	if values == nil {
		return
	}
	t := EventType{
		Name:              f.text(values, path, "name"),
		Description:       f.text(values, path, "description"),
		SuppressWhenEmpty: f.text(values, path, "suppress_when_empty"),
		File:              f.path,
	}
	switch {
	case values["name"] == nil:
		f.fault(node.Line, path+".name", "required, but absent")
	case t.Name != "" && (len(t.Name) > maxName || !typeName.MatchString(t.Name)):
		f.fault(values["name"].Line, path+".name",
			"must be letters, digits, _ and - in parts separated by dots, at most %d bytes", maxName)
	case f.catalog.byName[t.Name] != nil:
		other := "is built in"
		if file := f.catalog.byName[t.Name].File; file != "" {
			other = "is already defined in " + file
		}
		f.fault(values["name"].Line, path+".name", "%s %s", t.Name, other)
	}
	line, base := f.schema(&t, node, values, path)
	if example := values["example"]; example != nil {
		t.Example = f.json(example, path+".example")
	}
	if len(f.faults) > before {
		return
	}
	e, err := newEntry(t, base)
	if err != nil {
		f.fault(line, path+".schema", "not a valid JSON Schema: %s", plain(oneLine(err), maxDetail))
		return
	}
	if t.Example != nil {
		if _, err := e.check(t.Example, nil); err != nil && !errors.Is(err, ErrSuppressed) {
			f.fault(values["example"].Line, path+".example", "does not match the schema: %v", err)
			return
		}
	}
	f.catalog.add(e)
}

// schema reads schema or schema_file into t, and returns the line to blame and the base URL of references.
func (f *catalogFile) schema(t *EventType, event *yaml.Node, values map[string]*yaml.Node, path string) (int, string) {
	inline, file := values["schema"], values["schema_file"]
	switch {
	case inline != nil && file != nil:
		f.fault(file.Line, path+".schema_file", "schema is given too; only one of them may be")
	case inline == nil && file == nil:
		f.fault(event.Line, path+".schema", "required (or schema_file), but absent")
	case inline != nil:
		t.Schema = f.json(inline, path+".schema")
		return inline.Line, fileURL(filepath.Join(filepath.Dir(f.path), t.Name+".inline.json"))
	default:
		name := f.text(values, path, "schema_file")
		if name == "" {
			return file.Line, ""
		}
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(f.path), name)
		}
		text, err := os.ReadFile(name) // #nosec G304 -- the operator names the file
		if err != nil {
			f.fault(file.Line, path+".schema_file", "%v", err)
			return file.Line, ""
		}
		if _, err := scanDocument(text, nil); err != nil {
			at := 0
			var offset syntaxError
			if errors.As(err, &offset) {
				at = 1 + bytes.Count(text[:offset], []byte("\n"))
			}
			f.faults = append(f.faults, &FileError{File: name, Line: at, Problem: err.Error()})
			return file.Line, ""
		}
		t.Schema = text
		return file.Line, fileURL(name)
	}
	return event.Line, ""
}

func fileURL(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return (&url.URL{Scheme: "file", Path: filepath.ToSlash(path)}).String()
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

const (
	maxYAMLDepth = 100
	maxYAMLNodes = 100_000
)

// json renders a YAML value as JSON. Numbers keep their digits and keys their order.
func (f *catalogFile) json(node *yaml.Node, path string) json.RawMessage {
	w := jsonWriter{nodes: maxYAMLNodes}
	if at, err := w.write(node, 0); err != nil {
		f.fault(at.Line, path, "%v", err)
		return nil
	}
	return w.out
}

// jsonWriter counts down the nodes that it may still write: aliases can make a short text a very long one.
type jsonWriter struct {
	out   []byte
	nodes int
}

// write returns the node at fault with the error.
func (w *jsonWriter) write(node *yaml.Node, depth int) (*yaml.Node, error) {
	if w.nodes--; w.nodes < 0 || depth > maxYAMLDepth {
		return node, errors.New("too large or too deep once aliases are resolved")
	}
	switch node.Kind {
	case yaml.AliasNode:
		return w.write(node.Alias, depth+1)
	case yaml.SequenceNode:
		w.out = append(w.out, '[')
		for i, element := range node.Content {
			if i > 0 {
				w.out = append(w.out, ',')
			}
			if at, err := w.write(element, depth+1); err != nil {
				return at, err
			}
		}
		w.out = append(w.out, ']')
	case yaml.MappingNode:
		w.out = append(w.out, '{')
		seen := map[string]bool{}
		for i := 0; i+1 < len(node.Content); i += 2 {
			key := node.Content[i]
			if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" {
				return key, errors.New("a key must be a plain string here")
			}
			if seen[key.Value] {
				return key, fmt.Errorf("key %s is given twice", show(key.Value))
			}
			seen[key.Value] = true
			if i > 0 {
				w.out = append(w.out, ',')
			}
			w.out = append(appendQuoted(w.out, key.Value), ':')
			if at, err := w.write(node.Content[i+1], depth+1); err != nil {
				return at, err
			}
		}
		w.out = append(w.out, '}')
	default:
		return node, w.scalar(node)
	}
	return nil, nil
}

func (w *jsonWriter) scalar(node *yaml.Node) error {
	switch node.Tag {
	case "!!null":
		w.out = append(w.out, "null"...)
	case "!!bool":
		w.out = append(w.out, strings.ToLower(node.Value)...)
	case "!!int", "!!float":
		if json.Valid([]byte(node.Value)) {
			w.out = append(w.out, node.Value...)
			return nil
		}
		// Such as 0x1F, 1_000 or .5, which JSON does not know.
		var number any
		if err := node.Decode(&number); err != nil {
			return fmt.Errorf("not a number: %s", show(node.Value))
		}
		text, err := json.Marshal(number)
		if err != nil {
			return fmt.Errorf("%s is not a number in JSON", show(node.Value))
		}
		w.out = append(w.out, text...)
	case "!!str", "!!timestamp":
		w.out = appendQuoted(w.out, node.Value)
	default:
		return fmt.Errorf("a value of type %s has no form in JSON", show(node.Tag))
	}
	return nil
}

// nearest returns the candidate that word probably meant, or "".
func nearest(word string, candidates []string) string {
	word = cutBytes(word, maxName)
	best, distance := "", max(2, len(word)/3)+1
	for _, candidate := range candidates {
		if d := levenshtein.ComputeDistance(word, candidate); d < distance {
			best, distance = candidate, d
		}
	}
	return best
}
