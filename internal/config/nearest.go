package config

import (
	"strings"

	"github.com/agnivade/levenshtein"
)

// longestGuess bounds the words for which a neighbour is sought: the distance costs their product.
const longestGuess = 80

// nearest returns the candidate that word was probably meant to be, or "" when none is near: a third of
// the characters may differ, or one is the beginning of the other. Case does not count as a difference.
func nearest(word string, candidates []string) string {
	if len(word) > longestGuess {
		return ""
	}
	word = strings.ToLower(word)
	best, least := "", max(1, len(word)/3)+1
	for _, c := range candidates {
		if d := levenshtein.ComputeDistance(word, strings.ToLower(c)); d < least {
			best, least = c, d
		}
	}
	if best != "" || len(word) < 3 {
		return best
	}
	for _, c := range candidates {
		if strings.HasPrefix(word, c) || strings.HasPrefix(c, word) {
			return c
		}
	}
	return ""
}

// nearestKey returns the key, as a whole path, that an unknown path was probably meant to be: a sibling
// with a similar name, else a key of the same name elsewhere, else a similar path.
func nearestKey(path string) string {
	section, leaf := "", path
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		section, leaf = path[:i+1], path[i+1:]
	}
	var siblings, all []string
	same, sames := "", 0
	for _, key := range fileKeys {
		all = append(all, key)
		if rest, ok := strings.CutPrefix(key, section); ok {
			name, _, _ := strings.Cut(rest, ".")
			siblings = append(siblings, name)
		}
		if strings.HasSuffix(key, "."+leaf) {
			same, sames = key, sames+1
		}
	}
	if s := nearest(leaf, siblings); s != "" {
		return section + s
	}
	if sames == 1 {
		return same
	}
	return nearest(path, all)
}
