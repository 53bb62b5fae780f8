package config

import (
	"errors"
	"io/fs"
	"os"
	"sort"

	"github.com/spf13/pflag"
)

// SystemFile is read when neither a flag nor the environment names a file, if it exists.
const SystemFile = "/etc/relay/relay.yaml"

// LoadOptions says where the layers come from.
type LoadOptions struct {
	File    string         // read instead of the one that flags or environment name; "" leaves it to them
	Flags   *pflag.FlagSet // parsed, with the flags of AddFlags; nil for none
	Environ []string       // "NAME=value", as from os.Environ
}

// Load reads all layers and checks the result as a whole. Its error is an *Error with every fault found.
func Load(opts LoadOptions) (*Config, error) {
	return load(opts, SystemFile)
}

func load(opts LoadOptions, systemFile string) (*Config, error) {
	l := &loader{
		config:  Default(),
		overlay: readOverlay(opts.Flags, opts.Environ),
		bad:     make(map[string]bool),
	}
	path := opts.File
	if path == "" {
		path = l.overlay.config
	}
	if path == "" {
		if _, err := os.Stat(systemFile); !errors.Is(err, fs.ErrNotExist) {
			path = systemFile
		}
	}
	if path != "" {
		l.file = readFile(path)
	} else {
		l.file = &file{}
	}
	return l.finish()
}

// loader puts the layers on top of each other.
type loader struct {
	config  *Config
	file    *file
	overlay *overlay
	bad     map[string]bool // keys with a fault, left out of the comparisons
}

func (l *loader) finish() (*Config, error) {
	l.config.file = l.file.path
	l.secrets()
	for i := range settings {
		s := &settings[i]
		// The file's value is checked also where a flag hides it: the next start may be without the flag.
		if e := l.file.entries[s.key]; e != nil {
			l.apply(s, e)
		}
		if e := l.overlay.entry(s.key); e != nil {
			l.apply(s, e)
		}
	}
	if c := l.config; c.Database.ReplicationURL == "" {
		c.Database.ReplicationURL = c.Database.URL
	}
	l.compare()

	faults := l.file.faults
	sort.SliceStable(faults, func(i, j int) bool {
		a, b := faults[i], faults[j]
		return a.Line < b.Line || a.Line == b.Line && a.Column < b.Column
	})
	faults = append(faults, l.overlay.faults...)
	if len(faults) > 0 {
		return nil, &Error{Faults: faults}
	}
	return l.config, nil
}

// secrets reads the files that x_file names into the entries of x.
func (l *loader) secrets() {
	for i := range settings {
		s := &settings[i]
		e := l.file.entries[s.key+fileSuffix]
		if e == nil {
			continue
		}
		if l.file.entries[s.key] != nil {
			l.fault(e.place, s.key+fileSuffix, "the secret a second time",
				"only one of "+s.key+" and "+s.key+fileSuffix, "")
			continue
		}
		e.readSecret(s.key+fileSuffix, l.file.resolve)
		l.file.entries[s.key] = e
	}
}

// apply sets one key from one layer.
func (l *loader) apply(s *setting, e *entry) {
	shown := s.key
	if e.shown != "" {
		shown = e.shown
	}
	at, m := 0, e.wrong
	if m == nil && e.null {
		if s.def == "" {
			return
		}
		m = &mismatch{got: "nothing"}
	}
	if m == nil {
		if s.paths && e.place.Source == SourceFile {
			for i, path := range e.texts {
				e.texts[i] = l.file.resolve(path)
			}
		}
		at, m = s.assign(l.config, e.texts)
	}
	if m == nil {
		l.config.origins[s.key] = e.place
		delete(l.bad, s.key)
		return
	}
	l.bad[s.key] = true
	got, expected := m.got, m.expected
	if got == "" && at < len(e.texts) && !s.secret {
		got = quote(e.texts[at])
	}
	if got == "" {
		got = "something else"
	}
	if expected == "" {
		expected = s.expected
	}
	l.fault(e.at(at), shown, got, expected, m.nearest)
}

// fault adds a fault at a place of any layer.
func (l *loader) fault(at Origin, key, got, expected, near string) {
	if at.Source == SourceFile {
		l.file.fault(at, key, got, expected, near)
		return
	}
	l.overlay.fault(at, key, got, expected, near)
}
