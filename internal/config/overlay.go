package config

import (
	"regexp"
	"sort"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// Names of the flags that AddFlags declares.
const (
	flagConfig = "config"
	flagSet    = "set"
)

// flagKeys are the keys with a flag of their own; every other key has --set.
var flagKeys = []struct{ flag, key, usage string }{
	{"database-url", keyDatabaseURL, "PostgreSQL `URL` (database.url; visible in ps, prefer RELAY_DATABASE_URL_FILE)"},
	{"log-level", "log.level", "lowest `level` that is logged: debug, info, warn or error"},
	{"log-format", "log.format", "`form` of a log line: auto, text or json"},
}

// envConfig names the configuration file; it is no key.
const envConfig = "RELAY_CONFIG"

// AddFlags declares the flags that Load reads.
func AddFlags(fs *pflag.FlagSet) {
	fs.String(flagConfig, "", "configuration `file` (default $RELAY_CONFIG, else "+SystemFile+" if it exists)")
	for _, f := range flagKeys {
		fs.String(f.flag, "", f.usage)
	}
	fs.StringArray(flagSet, nil, "set any `key=value` of the configuration, such as deliver.timeout=10s; repeatable")
}

// overlay holds what environment and flags say. viper keeps their precedence; the entries that it holds
// know where they came from, which its own binding of variables would forget.
type overlay struct {
	values *viper.Viper
	faults []Fault
	config string // the file that they name
	source Origin // where they name it
}

func readOverlay(flags *pflag.FlagSet, environ []string) *overlay {
	o := &overlay{values: viper.New()}
	o.environment(environ)
	o.flags(flags)
	return o
}

// entry returns what environment or flags say about a key, nil if nothing.
func (o *overlay) entry(key string) *entry {
	e, _ := o.values.Get(key).(*entry)
	return e
}

func (o *overlay) fault(at Origin, key, got, expected, near string) {
	o.faults = append(o.faults, Fault{Source: at.String(), Key: key, Got: got, Expected: expected, Nearest: near})
}

// environment reads the variables that begin with RELAY_ as the lower layer.
func (o *overlay) environment(environ []string) {
	values := make(map[string]string)
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		// An empty variable is one that a compose file or unit passes on without having it.
		if strings.HasPrefix(name, envPrefix) && value != "" {
			values[name] = value
		}
	}
	if path := values[envConfig]; path != "" {
		o.config, o.source = path, Origin{Source: SourceEnvironment, Name: envConfig}
	}
	for _, key := range fileKeys {
		name := EnvName(key)
		value, ok := values[name]
		if !ok {
			continue
		}
		delete(values, name)
		at := Origin{Source: SourceEnvironment, Name: name}
		if s := secretOf[key]; s != nil && o.values.IsSet(s.key) {
			o.fault(at, key, "the secret a second time", "only one of "+EnvName(s.key)+" and "+name, "")
			continue
		}
		target, e := overlayEntry(key, value, at)
		o.values.SetDefault(target, e)
	}
	o.unknown(values)
}

// serviceLink matches the variables that Kubernetes sets in each pod for a service named relay, or
// relay-something.
var serviceLink = regexp.MustCompile(`^RELAY_(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// unknown refuses variables that were probably meant for a key: those of a section, and those that are
// nearly the name of a key. Others may belong to somebody else's relay.
func (o *overlay) unknown(values map[string]string) {
	known := make([]string, len(fileKeys))
	for i, key := range fileKeys {
		known[i] = EnvName(key)
	}
	var names []string
	for name := range values {
		if name != envConfig && !serviceLink.MatchString(name) {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	for _, name := range names {
		near := nearest(strings.TrimPrefix(name, envPrefix), trimPrefixes(known))
		if near != "" {
			near = envPrefix + near
		}
		ours := near != ""
		for section := range sections {
			ours = ours || strings.HasPrefix(name, EnvName(section)+"_")
		}
		if ours {
			at := Origin{Source: SourceEnvironment, Name: printable(name)}
			o.fault(at, "", "an unknown variable", "the variable of a known key", near)
		}
	}
}

func trimPrefixes(names []string) []string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = strings.TrimPrefix(name, envPrefix)
	}
	return out
}

// flags reads the flags as the upper layer. --set wins over a flag of its own, and the later over the
// earlier, as on any command line.
func (o *overlay) flags(fs *pflag.FlagSet) {
	if fs == nil {
		return
	}
	if f := fs.Lookup(flagConfig); f != nil && f.Changed {
		o.config, o.source = f.Value.String(), Origin{Source: SourceFlag, Name: "--" + flagConfig}
	}
	for _, fk := range flagKeys {
		if f := fs.Lookup(fk.flag); f != nil && f.Changed {
			_, e := overlayEntry(fk.key, f.Value.String(), Origin{Source: SourceFlag, Name: "--" + fk.flag})
			o.values.Set(fk.key, e)
		}
	}
	f := fs.Lookup(flagSet)
	if f == nil {
		return
	}
	pairs, ok := f.Value.(pflag.SliceValue)
	if !ok {
		return
	}
	at := Origin{Source: SourceFlag, Name: "--" + flagSet}
	for _, pair := range pairs.GetSlice() {
		key, value, ok := strings.Cut(pair, "=")
		key = strings.TrimSpace(key)
		switch {
		case !ok:
			o.fault(at, "", quote(pair), "key=value", "")
		case settingOf[key] == nil && secretOf[key] == nil:
			o.fault(at, printable(maskText(key)), "an unknown key", "a known key", nearestKey(key))
		default:
			target, e := overlayEntry(key, value, at)
			o.values.Set(target, e)
		}
	}
}

// overlayEntry returns the entry of a text outside the file, and the key that it is for.
func overlayEntry(key, text string, at Origin) (string, *entry) {
	e := &entry{place: at}
	if s := secretOf[key]; s != nil {
		e.texts = []string{strings.TrimSpace(text)}
		e.readSecret(key, func(path string) string { return path })
		return s.key, e
	}
	e.texts = settingOf[key].split(text)
	return key, e
}

// readSecret replaces the path in an entry of x_file by the secret itself.
func (e *entry) readSecret(key string, resolve func(string) string) {
	e.shown = key
	const expected = "the path of a file that holds the secret"
	if e.wrong == nil && (e.null || len(e.texts) != 1 || e.texts[0] == "") {
		e.wrong = &mismatch{got: "nothing"}
	}
	if e.wrong != nil {
		e.wrong.expected = expected
		return
	}
	path := resolve(e.texts[0])
	text, err := readSecret(path)
	if err != nil {
		e.wrong = &mismatch{got: quote(path) + " (" + err.Error() + ")", expected: expected}
		return
	}
	e.texts, e.place.Via = []string{text}, path
}
