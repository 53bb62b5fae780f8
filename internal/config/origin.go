package config

import "strconv"

// Source is the layer that a value came from, in rising precedence.
type Source string

const (
	SourceDefault     Source = "default"
	SourceFile        Source = "file"
	SourceEnvironment Source = "environment"
	SourceFlag        Source = "flag"
)

// Origin is the place that a value came from.
type Origin struct {
	Source Source
	Name   string // path of the file, name of the variable, or flag as typed (--log-level); "" for a default
	Line   int    // in the file, from 1; 0 elsewhere
	Column int    // in the file, in characters from 1; 0 elsewhere
	Via    string // file that a secret was read from, "" if it stood there itself
}

// String returns "default", "relay.yaml:12", "env RELAY_LOG_LEVEL" or "flag --log-level".
func (o Origin) String() string {
	var s string
	switch o.Source {
	case SourceFile:
		s = o.Name
		if o.Line > 0 {
			s += ":" + strconv.Itoa(o.Line)
		}
	case SourceEnvironment:
		s = "env " + o.Name
	case SourceFlag:
		s = "flag " + o.Name
	default:
		s = string(o.Source)
	}
	if o.Via != "" {
		s += " (from " + o.Via + ")"
	}
	return s
}
