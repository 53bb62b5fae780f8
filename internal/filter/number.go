package filter

import (
	"strconv"
	"strings"
)

// number is a decimal number: 0.digits times ten to the power of exp. Digits begin and end with none that is zero; there are
// none of zero.
type number struct {
	negative bool
	digits   string
	exp      int
}

// farExp stands for exponents that do not fit: numbers that nobody means, which still have an order.
const farExp = 1 << 40

// parseNumber reads a number as JSON spells it (RFC 8259, section 6). Its time and memory are bounded by the text, whatever
// the exponent: nothing is computed.
func parseNumber(text string) number {
	var n number
	text, n.negative = strings.CutPrefix(text, "-")
	mantissa := text
	if i := strings.IndexAny(text, "eE"); i >= 0 {
		mantissa = text[:i]
		exp, err := strconv.ParseInt(text[i+1:], 10, 64)
		if err != nil || exp > farExp || exp < -farExp {
			exp = farExp
			if text[i+1] == '-' {
				exp = -farExp
			}
		}
		n.exp = int(exp)
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	n.exp += len(whole)
	digits := strings.TrimLeft(whole+fraction, "0")
	n.exp -= len(whole) + len(fraction) - len(digits)
	n.digits = strings.TrimRight(digits, "0")
	if n.digits == "" {
		return number{}
	}
	return n
}

// parseDecimal reads a string that is a decimal number without an exponent, as amounts are written.
func parseDecimal(text string) (number, bool) {
	whole, fraction, point := strings.Cut(strings.TrimPrefix(text, "-"), ".")
	if !digitsOnly(whole) || point && !digitsOnly(fraction) {
		return number{}, false
	}
	return parseNumber(text), true
}

func digitsOnly(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// compare returns -1, 0 or 1, as n is less than, equal to or greater than m.
func (n number) compare(m number) int {
	sign := func(x number) int {
		switch {
		case x.digits == "":
			return 0
		case x.negative:
			return -1
		}
		return 1
	}
	a, b := sign(n), sign(m)
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	case a == 0:
		return 0
	case n.exp < m.exp:
		return -a
	case n.exp > m.exp:
		return a
	}
	return a * strings.Compare(n.digits, m.digits)
}
