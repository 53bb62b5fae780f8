package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// largestFile bounds what is read as a configuration file, which could be a device.
const largestFile = 1 << 20

// entry is what one layer says about one key: texts as typed, each with its place.
type entry struct {
	texts  []string
	places []Origin // one for each text
	place  Origin   // of the key's value as a whole
	shown  string   // key as written where that was x_file
	null   bool     // the key stands there without a value
	wrong  *mismatch
}

// at returns the place of text i, or of the value when there is no such text.
func (e *entry) at(i int) Origin {
	if i < len(e.places) {
		return e.places[i]
	}
	return e.place
}

// file is a configuration file as read: lines for excerpts, entries by key, and what is wrong with it.
type file struct {
	path    string
	lines   []string
	entries map[string]*entry
	faults  []Fault
	places  map[string]Origin // of each path seen, to refuse it a second time
}

func readFile(path string) *file {
	f := &file{path: path}
	r, err := os.Open(path) // #nosec G304 -- the operator names the file
	if err == nil {
		var data []byte
		data, err = io.ReadAll(io.LimitReader(r, largestFile+1))
		_ = r.Close()
		if err == nil && len(data) > largestFile {
			err = errors.New("more than 1MiB")
		}
		if err == nil {
			return parseFile(path, data)
		}
	}
	f.faults = append(f.faults, Fault{File: path, Got: pathless(err).Error(), Expected: "a file that can be read"})
	return f
}

// parseFile reads the text of a configuration file. It has no fault but those that it returns.
func parseFile(path string, data []byte) *file {
	f := &file{
		path:    path,
		lines:   strings.Split(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n"),
		entries: make(map[string]*entry),
		places:  make(map[string]Origin),
	}
	for i, line := range f.lines {
		// The parser refuses both, but does not say where.
		if !utf8.ValidString(line) {
			f.fault(Origin{Line: i + 1, Column: 1}, "", "bytes that are not UTF-8", "YAML, as UTF-8 text", "")
			return f
		}
		if at := strings.IndexFunc(line, isControl); at >= 0 {
			column := utf8.RuneCountInString(line[:at]) + 1
			f.fault(Origin{Line: i + 1, Column: column}, "", "a control character", "YAML, as UTF-8 text", "")
			return f
		}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	switch err := decoder.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return f // empty: the defaults
	case err != nil:
		f.syntax(err)
		return f
	}
	switch err := decoder.Decode(&second); {
	case err == nil:
		f.fault(f.place(&second), "", "a second document", "one YAML document in the file", "")
	case !errors.Is(err, io.EOF):
		f.syntax(err)
	}
	if len(doc.Content) == 1 && !isNull(deref(doc.Content[0])) {
		f.section("", doc.Content[0])
	}
	return f
}

func (f *file) fault(at Origin, key, got, expected, near string) {
	f.faults = append(f.faults, Fault{
		File: f.path, Line: at.Line, Column: at.Column, Key: key, Got: got, Expected: expected, Nearest: near,
		Excerpt: excerpt(f.lines, at.Line, at.Column),
	})
}

// isControl says whether a character may not stand in YAML.
func isControl(r rune) bool {
	return r != '\t' && r != '\r' && r != 0x85 && unicode.IsControl(r) || r == 0xFFFE || r == 0xFFFF
}

var syntaxLine = regexp.MustCompile(`^line (\d+): `)

// syntax reports what the YAML parser refused. It stops at its first fault.
func (f *file) syntax(err error) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	at := Origin{}
	if m := syntaxLine.FindStringSubmatch(text); m != nil {
		at.Line, _ = strconv.Atoi(m[1])
		text = text[len(m[0]):]
	} else if len(f.lines) > 0 {
		at.Line = 1 // the parser leaves the first line out
	}
	expected := "YAML"
	switch {
	case strings.HasPrefix(text, "unknown anchor"):
		name := strings.TrimSuffix(strings.TrimPrefix(text, "unknown anchor '"), "' referenced")
		for i, line := range f.lines {
			if column := strings.Index(line, "*"+name); column >= 0 {
				at = Origin{Line: i + 1, Column: utf8.RuneCountInString(line[:column]) + 1}
				break
			}
		}
		text = "an anchor that is not set" // without its name, which may begin an unquoted secret
		expected = "quotes around a value that begins with *"
	case at.Line >= 1 && at.Line <= len(f.lines) && strings.HasPrefix(strings.TrimLeft(f.lines[at.Line-1], " "), "\t"):
		expected = "spaces before the key; YAML takes no tabs there"
		at.Column = strings.IndexByte(f.lines[at.Line-1], '\t') + 1
	}
	f.fault(at, "", "a syntax error ("+printable(text)+")", expected, "")
}

func (f *file) place(n *yaml.Node) Origin {
	return Origin{Source: SourceFile, Name: f.path, Line: n.Line, Column: n.Column}
}

func deref(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// section reads the keys of a mapping. It calls itself only for paths that are sections, so that an alias
// to something that holds it comes to an end.
func (f *file) section(path string, node *yaml.Node) {
	n := deref(node)
	if n.Kind != yaml.MappingNode {
		expected := "keys and values"
		if path != "" {
			expected = "keys below " + path + ": " + strings.Join(children(path), ", ")
		}
		f.fault(f.place(node), path, describe(n), expected, "")
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		f.pair(path, n.Content[i], n.Content[i+1])
	}
}

// pair reads one key of the section at path.
func (f *file) pair(path string, name, value *yaml.Node) {
	at := f.place(name)
	if deref(name).Kind != yaml.ScalarNode {
		f.fault(at, path, describe(deref(name))+" as a key", "the name of a key", "")
		return
	}
	key := deref(name).Value
	if path != "" {
		key = path + "." + key
	}
	shown := printable(maskText(key))
	if len(shown) > longestGuess {
		shown = shown[:longestGuess] + "…"
	}
	known := settingOf[key] != nil || secretOf[key] != nil || sections[key]
	// A key with dots in its own name is not the path that it looks like.
	dotted := strings.Contains(deref(name).Value, ".")
	switch first, again := f.places[key]; {
	case again && known && !dotted:
		f.fault(at, shown, "the key a second time", fmt.Sprintf("it once; it stands in line %d, too", first.Line), "")
		return
	case deref(name).Value == "<<":
		f.fault(at, shown, "a merge key", "the settings themselves; merging is not supported", "")
		return
	case known && dotted:
		section, leaf, _ := cutLast(key)
		f.fault(at, shown, "a key with a dot", "the key "+leaf+" inside the section "+section, "")
		return
	case !known:
		expected := "a known key"
		if path != "" {
			expected += " of " + path
		}
		f.fault(at, shown, "an unknown key", expected, nearestKey(key))
		return
	}
	f.places[key] = at
	switch {
	case !sections[key]:
		f.entries[key] = f.value(key, value)
	case !isNull(deref(value)): // a section whose keys are all commented out
		f.section(key, value)
	}
}

// value reads what stands at the key of a setting.
func (f *file) value(key string, node *yaml.Node) *entry {
	n := deref(node)
	s := settingOf[key]
	e := &entry{place: f.place(node)}
	switch {
	case isNull(n):
		e.null = true
	case n.Kind == yaml.ScalarNode && s != nil && s.list:
		e.texts = s.split(n.Value)
	case n.Kind == yaml.ScalarNode:
		e.texts = []string{strings.TrimSpace(n.Value)}
	case n.Kind == yaml.SequenceNode && s != nil && s.list:
		for _, item := range n.Content {
			v := deref(item)
			if v.Kind != yaml.ScalarNode || isNull(v) {
				e.place, e.wrong = f.place(item), &mismatch{got: describe(v) + " as an item"}
				return e
			}
			e.texts = append(e.texts, strings.TrimSpace(v.Value))
			e.places = append(e.places, f.place(item))
		}
	default:
		e.wrong = &mismatch{got: describe(n)}
	}
	return e
}

// resolve returns a path that stands in the file.
func (f *file) resolve(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(f.path), path)
}

func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "keys and values"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case isNull(n):
		return "nothing"
	}
	return "a single value"
}

// children returns the names directly below a section.
func children(path string) []string {
	var names []string
	for _, key := range fileKeys {
		if rest, ok := strings.CutPrefix(key, path+"."); ok {
			name, _, _ := strings.Cut(rest, ".")
			if len(names) == 0 || names[len(names)-1] != name {
				names = append(names, name)
			}
		}
	}
	return names
}
