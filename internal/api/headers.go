package api

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/secret"
)

const authorization = "Authorization"

// headers makes what a subscription holds out of what it has, nil for a new one, and of what replaces it: list all headers but
// Authorization, auth that one; nil leaves either as it is. allow are names that the operator lets tenants set besides.
func headers(sub *deliver.Subscription, list []Header, auth *Auth, allow []string) (secret.Secret, error) {
	var old http.Header
	if sub != nil {
		// Those that cannot be used, because other hands wrote them, go.
		old, _ = sub.Header()
	}
	var all []deliver.Header
	at := make(map[int]int) // index in all to that in list
	for i, h := range list {
		if strings.EqualFold(h.Name, authorization) {
			return secret.Secret{}, invalid(fmt.Sprintf("/headers/%d/name", i), "Use auth for the header Authorization.")
		}
		at[len(all)] = i
		all = append(all, deliver.Header{Name: h.Name, Value: h.Value})
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		if name != authorization && list == nil || name == authorization && auth == nil {
			all = append(all, deliver.Header{Name: name, Value: old[name][0]})
			allow = append(slices.Clip(allow), name) // it was, when it was set
		}
	}
	if auth != nil {
		value, err := auth.value()
		if err != nil {
			return secret.Secret{}, err
		}
		if value != "" {
			all = append(all, deliver.Header{Name: authorization, Value: value})
		}
	}
	made, err := deliver.NewHeaders(all, allow...)
	var wrong *deliver.HeaderError
	if errors.As(err, &wrong) {
		pointer := "/auth"
		if i, ok := at[wrong.Index]; ok {
			pointer = fmt.Sprintf("/headers/%d", i)
		} else if wrong.Index >= len(all) {
			pointer = "/headers"
		}
		return secret.Secret{}, invalid(pointer, sentence(wrong.Reason))
	}
	return made, err
}

// value is the header's; "" for none.
func (a *Auth) value() (string, error) {
	switch {
	case a.Type == "none":
		return "", nil
	case a.Type == "bearer" && a.Token == "":
		return "", invalid("/auth/token", "It is needed for bearer.")
	case a.Type == "bearer":
		return "Bearer " + a.Token, nil
	case a.Username == "" || strings.Contains(a.Username, ":"):
		return "", invalid("/auth/username", "It is needed for basic, and has no colon.")
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(a.Username+":"+a.Password)), nil
}
