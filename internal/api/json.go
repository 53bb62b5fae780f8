package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// Bounds of a body, besides its size.
const (
	maxBody  = 1 << 20
	maxDepth = 32
	maxItems = 1000 // of one array or object
)

// unmarshal decodes a body that is one JSON value, within the bounds, without a name twice in an object: receivers of such
// a body disagree about which of the two counts.
func unmarshal(data []byte, v any) error {
	if err := checkJSON(data); err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return errors.New("the body has a value that cannot be read") // whose, the decoder would repeat
	}
	return nil
}

func checkJSON(data []byte) error {
	if !utf8.Valid(data) {
		return errors.New("the body is not valid UTF-8")
	}
	type level struct {
		names map[string]bool // nil in an array
		name  bool            // a name comes next
		items int
	}
	var open []*level
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	for n := 0; ; n++ {
		token, err := dec.Token()
		switch {
		case errors.Is(err, io.EOF) && n == 0:
			return errors.New("the body is empty")
		case errors.Is(err, io.EOF) && len(open) == 0:
			return nil
		case errors.Is(err, io.EOF):
			return errors.New("the body ends in the middle of a value")
		case err != nil:
			return errors.New("the body is not valid JSON")
		case n > 0 && len(open) == 0:
			return errors.New("the body has more than one value")
		}
		var in *level
		if len(open) > 0 {
			in = open[len(open)-1]
		}
		if d, ok := token.(json.Delim); ok && (d == '}' || d == ']') {
			open = open[:len(open)-1]
			continue
		}
		if in != nil && in.name {
			name, ok := token.(string)
			if !ok {
				return errors.New("the body is not valid JSON")
			}
			if in.names[name] {
				return errors.New("the body has a name twice in one object")
			}
			in.names[name], in.name = true, false
			continue
		}
		if in != nil {
			if in.items++; in.items > maxItems {
				return fmt.Errorf("the body has an array or object of more than %d items", maxItems)
			}
			in.name = in.names != nil
		}
		if d, ok := token.(json.Delim); ok {
			next := &level{}
			if d == '{' {
				next.names, next.name = make(map[string]bool), true
			}
			if open = append(open, next); len(open) > maxDepth {
				return fmt.Errorf("the body is nested more than %d deep", maxDepth)
			}
		}
	}
}
