package config

import "strings"

// setting is one key: where its value lives, how it is read and written, and what it means.
type setting struct {
	key      string
	def      string // as typed in the environment; "" for none
	doc      string // one sentence, for the schema
	expected string
	schema   map[string]any
	list     bool
	secret   bool // masked, and x_file is accepted beside x
	paths    bool // relative to the directory of the file that it stands in

	// assign sets the value, or leaves it and returns why not and the index of the text at fault.
	assign func(c *Config, texts []string) (int, *mismatch)
	texts  func(c *Config) []string // canonical; none when there is no value
	plain  func(c *Config) any      // for YAML and JSON; nil when there is no value
}

// split makes the texts of a value from its form in environment and flags.
func (s *setting) split(text string) []string {
	text = strings.TrimSpace(text)
	if text == "" {
		return nil
	}
	if !s.list {
		return []string{text}
	}
	parts := strings.Split(text, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}

// cutLast splits a path into its section and the name in it.
func cutLast(path string) (section, name string, nested bool) {
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		return path[:i], path[i+1:], true
	}
	return "", path, false
}

// one is the setting of a single value. Without a default the value may be left out, which is its zero.
func one[T comparable](key, def, doc string, k kind[T], at func(*Config) *T) setting {
	var zero T
	return setting{
		key: key, def: def, doc: doc, expected: k.expected, schema: k.schema,
		assign: func(c *Config, texts []string) (int, *mismatch) {
			if len(texts) == 0 {
				if def != "" {
					return 0, &mismatch{got: "nothing"}
				}
				*at(c) = zero
				return 0, nil
			}
			v, m := k.parse(texts[0])
			if m != nil {
				return 0, m
			}
			*at(c) = v
			return 0, nil
		},
		texts: func(c *Config) []string {
			if v := *at(c); def != "" || v != zero {
				return []string{k.text(v)}
			}
			return nil
		},
		plain: func(c *Config) any {
			if v := *at(c); def != "" || v != zero {
				return k.plain(v)
			}
			return nil
		},
	}
}

// many is the setting of a list. With a default the list has at least one item.
func many[T any](key, def, doc string, most int, k kind[T], at func(*Config) *[]T) setting {
	items := map[string]any{"type": "array", "items": k.schema, "maxItems": most}
	if def != "" {
		items["minItems"] = 1
	}
	return setting{
		key: key, def: def, doc: doc, expected: "a list, each item " + k.expected, list: true,
		// The form of the environment is good in the file, too.
		schema: map[string]any{"anyOf": []any{items, map[string]any{"type": []any{"string", "number"}}}},
		assign: func(c *Config, texts []string) (int, *mismatch) {
			if len(texts) == 0 && def != "" {
				return 0, &mismatch{got: "an empty list", expected: "at least one item, each " + k.expected}
			}
			if len(texts) > most {
				return most, &mismatch{got: "more items than that", expected: "at most " + integer(0, most).text(most)}
			}
			values := make([]T, 0, len(texts))
			for i, text := range texts {
				v, m := k.parse(text)
				if m != nil {
					if m.expected == "" {
						m.expected = k.expected
					}
					return i, m
				}
				values = append(values, v)
			}
			*at(c) = values
			return 0, nil
		},
		texts: func(c *Config) []string {
			var texts []string
			for _, v := range *at(c) {
				texts = append(texts, k.text(v))
			}
			return texts
		},
		plain: func(c *Config) any {
			plain := make([]any, 0, len(*at(c)))
			for _, v := range *at(c) {
				plain = append(plain, k.plain(v))
			}
			return plain
		},
	}
}

// Keys returns the paths of all settings, in the order of configs/relay.yaml.
func Keys() []string {
	keys := make([]string, len(settings))
	for i, s := range settings {
		keys[i] = s.key
	}
	return keys
}

// envPrefix begins the name of every variable that the relay reads.
const envPrefix = "RELAY_"

// EnvName returns the variable that sets a key: RELAY_DELIVER_TIMEOUT for deliver.timeout.
func EnvName(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

var (
	settingOf = map[string]*setting{} // by key
	secretOf  = map[string]*setting{} // by the key of the secret's file
	fileKeys  []string                // all keys that may stand in the file, those of secrets' files included
	sections  = map[string]bool{}     // paths that have keys below them
)

func init() {
	for i := range settings {
		s := &settings[i]
		settingOf[s.key] = s
		fileKeys = append(fileKeys, s.key)
		if s.secret {
			secretOf[s.key+fileSuffix] = s
			fileKeys = append(fileKeys, s.key+fileSuffix)
		}
		for path, _, nested := cutLast(s.key); nested; path, _, nested = cutLast(path) {
			sections[path] = true
		}
	}
}
