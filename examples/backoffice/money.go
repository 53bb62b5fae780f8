package backoffice

import (
	"errors"
	"regexp"
	"strings"
)

// Amount is a positive decimal as text. It is never a binary number: every digit, also a trailing zero, stays from
// the request through the numeric column into the event.
type Amount string

// maxDigits bounds an Amount; a numeric column would take far more.
const maxDigits = 60

var (
	errAmountForm = errors.New(`must be a decimal such as "1500.00" or 1500.00, without sign, exponent or leading zeros`)
	errAmountSize = errors.New("may have 60 digits")
	errAmountSign = errors.New("must be greater than zero")

	decimal  = regexp.MustCompile(`^(0|[1-9][0-9]*)(\.[0-9]+)?$`)
	currency = regexp.MustCompile(`^[A-Z]{3}$`)
)

// UnmarshalJSON takes a JSON number or a JSON string and keeps its digits as they stand.
func (a *Amount) UnmarshalJSON(raw []byte) error {
	text := string(raw)
	if inside, ok := strings.CutPrefix(text, `"`); ok {
		if inside, ok = strings.CutSuffix(inside, `"`); ok {
			text = inside
		}
	}
	switch {
	case !decimal.MatchString(text):
		return errAmountForm
	case len(text)-strings.Count(text, ".") > maxDigits:
		return errAmountSize
	case strings.Trim(text, "0.") == "":
		return errAmountSign
	}
	*a = Amount(text)
	return nil
}

// checkCurrency refuses what is not of the form of an ISO 4217 code; an absent one was refused before.
func (f *form) checkCurrency(name, value string) {
	if value != "" && !currency.MatchString(value) {
		f.refuse(name, `must be a currency code such as "EUR"`)
	}
}
