package config

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// shown is the value of a setting as it may be printed: secrets masked, nil when there is none.
func (s *setting) shown(c *Config) any {
	v := s.plain(c)
	if text, ok := v.(string); ok && s.secret {
		return Redact(text)
	}
	return v
}

// Print writes all settings as YAML, each with its origin as a comment. Without its masked secrets, the
// text is a configuration file with the same meaning.
func Print(w io.Writer, c *Config) error {
	root := &yaml.Node{Kind: yaml.MappingNode}
	nodes := map[string]*yaml.Node{"": root}
	for i := range settings {
		s := &settings[i]
		value := &yaml.Node{}
		if err := value.Encode(s.shown(c)); err != nil {
			return fmt.Errorf("encode %s: %w", s.key, err)
		}
		if value.Kind == yaml.SequenceNode {
			value.Style = yaml.FlowStyle
		}
		name := s.key
		parent := root
		if section, leaf, nested := cutLast(s.key); nested {
			name, parent = leaf, sectionNode(nodes, section)
		}
		value.LineComment = "# " + strings.ReplaceAll(c.origins[s.key].String(), "\n", " ")
		parent.Content = append(parent.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: name}, value)
	}
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(root); err != nil {
		return fmt.Errorf("print configuration: %w", err)
	}
	return e.Close()
}

// sectionNode returns the mapping of a section, and hangs it into the tree when it is new.
func sectionNode(nodes map[string]*yaml.Node, path string) *yaml.Node {
	if n := nodes[path]; n != nil {
		return n
	}
	above, name, _ := cutLast(path)
	parent := sectionNode(nodes, above)
	n := &yaml.Node{Kind: yaml.MappingNode}
	nodes[path] = n
	parent.Content = append(parent.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: name}, n)
	return n
}

// PrintJSON writes {"file": ..., "values": {...}, "origins": {key: ...}}, the values nested as in the file
// and secrets masked.
func PrintJSON(w io.Writer, c *Config) error {
	values := map[string]any{}
	origins := make(map[string]string, len(settings))
	for i := range settings {
		s := &settings[i]
		nest(values, s.key)[leafOf(s.key)] = s.shown(c)
		origins[s.key] = c.origins[s.key].String()
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	err := e.Encode(struct {
		File    string            `json:"file"`
		Values  map[string]any    `json:"values"`
		Origins map[string]string `json:"origins"`
	}{c.file, values, origins})
	if err != nil {
		return fmt.Errorf("print configuration: %w", err)
	}
	return nil
}

// nest returns the map of the section that a key is in, made as needed.
func nest(values map[string]any, key string) map[string]any {
	section, _, nested := cutLast(key)
	if !nested {
		return values
	}
	m := values
	for _, name := range strings.Split(section, ".") {
		next, ok := m[name].(map[string]any)
		if !ok {
			next = map[string]any{}
			m[name] = next
		}
		m = next
	}
	return m
}

func leafOf(key string) string {
	_, leaf, _ := cutLast(key)
	return leaf
}
