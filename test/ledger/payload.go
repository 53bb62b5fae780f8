package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// types are the event types that writers choose from.
var types = []string{"sales_order.created", "sales_order.confirmed", "payment.received"}

// hash is how bodies are compared.
func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// payload is the JSON text of an event as a writer may spell it: odd in ways that a relay which parses and renders it
// again would not keep. A bad one does not match its schema.
func payload(r *rand.Rand, typ, key string, seq int, bad bool) string {
	var b strings.Builder
	b.WriteString(`{`)
	if bad {
		fmt.Fprintf(&b, `"key": %q, "seq": %d}`, key, seq)
		return b.String()
	}
	space := []string{"", " ", "\n\t"}[r.IntN(3)]
	id, number := "order_id", "order_number"
	if strings.HasPrefix(typ, "payment") {
		id, number = "payment_id", "invoice_id"
	}
	fmt.Fprintf(&b, `%s"zeta":%s12345678901234567890.1200,"%s":%s%q,`, space, space, id, space, key)
	fmt.Fprintf(&b, `"%s":"%d","amount":%s,%s"currency":"\u0045UR"`, number, seq, []string{`"1500.00"`, `0.10`, `1e2`}[r.IntN(3)], space)
	if r.IntN(3) == 0 {
		b.WriteString(`,"note":"<b>&amp; ü \u2028 / \/ \ud83d\ude00","big":1e400,"nested":{"b":1,"a":[ 1 , 2.0 ]}`)
	}
	switch n := r.IntN(100); {
	case n == 0:
		fmt.Fprintf(&b, `,"pad":%q`, strings.Repeat("x", r.IntN(200_000))) // compressible: PostgreSQL's WAL has it short
	case n < 3:
		raw := make([]byte, r.IntN(20_000))
		for i := range raw {
			raw[i] = byte(r.IntN(256))
		}
		fmt.Fprintf(&b, `,"pad":%q`, hex.EncodeToString(raw))
	case n < 50:
		fmt.Fprintf(&b, `,"pad":%q`, strings.Repeat("y", r.IntN(300)))
	}
	b.WriteString(space + `}`)
	return b.String()
}

// envelope is what receivers are to get, worked out apart from the relay.
func envelope(id, typ, tenant string, created time.Time, data string) []byte {
	return []byte(`{"id":` + quote(id) + `,"type":` + quote(typ) + `,"timestamp":` + quote(created.UTC().Format(time.RFC3339Nano)) +
		`,"tenant_id":` + quote(tenant) + `,"data":` + data + `}`)
}

func quote(s string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		panic(err) // a string always encodes
	}
	return strings.TrimSuffix(b.String(), "\n")
}
