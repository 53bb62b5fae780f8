package cdc

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func mustDecode(t testing.TB, d *Decoder, msg []byte) (Item, bool) {
	t.Helper()
	item, ok, err := d.Decode(msg)
	if err != nil {
		t.Fatalf("decode %q: %v", msg[:1], err)
	}
	return item, ok
}

// The bytes are written out by hand, from the manual, so that a fault that the
// builders and the Decoder share is seen.
func TestDecoder_ReadsTheBytesOfTheManual(t *testing.T) {
	d := NewDecoder()
	read := func(hexBytes string) (Item, bool) {
		t.Helper()
		b, err := hex.DecodeString(strings.ReplaceAll(hexBytes, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		return mustDecode(t, d, b)
	}
	begin, ok := read("42 000000000155CA80 0002D12E5A6B1C40 000002E1")
	at := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(0x0002D12E5A6B1C40) * time.Microsecond)
	if want := (Item{Kind: ItemBegin, CommitLSN: 0x155CA80, CommitTime: at, XID: 737}); !ok || !reflect.DeepEqual(begin, want) {
		t.Errorf("begin %+v, want %+v", begin, want)
	}
	if !d.InTransaction() {
		t.Error("not in a transaction after its begin")
	}
	// outbox.events (id bigint key, body varchar(10)): flags, name, OID, modifier.
	if _, ok := read("52 00004001 6F7574626F7800 6576656E747300 64 0002" +
		"01 696400 00000014 FFFFFFFF" + "00 626F647900 00000413 0000000E"); ok {
		t.Error("a relation is no item")
	}
	row, ok := read("49 00004001 4E 0002 74 00000002 3432 6E")
	if !ok || row.Kind != ItemRow || row.CommitLSN != 0x155CA80 {
		t.Fatalf("row %+v", row)
	}
	wantRelation := &Relation{ID: 0x4001, Schema: "outbox", Name: "events",
		Columns: []Column{{"id", 20, -1}, {"body", 1043, 14}}}
	if !reflect.DeepEqual(row.Row.Relation, wantRelation) {
		t.Errorf("relation %+v, want %+v", row.Row.Relation, wantRelation)
	}
	if want := []Value{{KindText, []byte("42")}, {Kind: KindNull}}; !reflect.DeepEqual(row.Row.Values, want) {
		t.Errorf("values %+v, want %+v", row.Row.Values, want)
	}
	message, ok := read("4D 01 000000000155CA00 7000 00000003 616263")
	if !ok || message.Kind != ItemMessage || message.Prefix != "p" || string(message.Content) != "abc" {
		t.Errorf("message %+v", message)
	}
	commit, ok := read("43 00 000000000155CA80 000000000155CAB0 0002D12E5A6B1C40")
	if want := (Item{Kind: ItemCommit, CommitLSN: 0x155CA80, EndLSN: 0x155CAB0, CommitTime: at}); !ok || !reflect.DeepEqual(commit, want) {
		t.Errorf("commit %+v, want %+v", commit, want)
	}
	if d.InTransaction() {
		t.Error("in a transaction after its commit")
	}
}

func TestDecoder_TellsNullFromEmpty(t *testing.T) {
	d := NewDecoder()
	mustDecode(t, d, relationMessage(1, "s", "t", "a", "b", "c"))
	mustDecode(t, d, beginMessage(10, 1))
	row, _ := mustDecode(t, d, insertMessage(1, Value{Kind: KindNull}, textValue(""), Value{Kind: KindUnchanged}))
	v := row.Row.Values
	if v[0].Kind != KindNull || v[0].Data != nil {
		t.Errorf("NULL is %+v", v[0])
	}
	if v[1].Kind != KindText || v[1].Data == nil || len(v[1].Data) != 0 {
		t.Errorf("an empty text is %+v, want data of length zero", v[1])
	}
	if v[2].Kind != KindUnchanged || v[2].Data != nil {
		t.Errorf("an unchanged value is %+v", v[2])
	}
}

func TestDecoder_NamesTheCatalogSchema(t *testing.T) {
	d := NewDecoder()
	mustDecode(t, d, relationMessage(1, "", "t"))
	mustDecode(t, d, beginMessage(10, 1))
	if row, _ := mustDecode(t, d, insertMessage(1)); row.Row.Relation.Schema != "pg_catalog" {
		t.Errorf("schema %q", row.Row.Relation.Schema)
	}
}

func TestDecoder_KeepsOldRelationsUnchanged(t *testing.T) {
	d := NewDecoder()
	mustDecode(t, d, relationMessage(1, "s", "t", "a"))
	mustDecode(t, d, beginMessage(10, 1))
	before, _ := mustDecode(t, d, insertMessage(1, textValue("1")))
	mustDecode(t, d, relationMessage(1, "s", "t", "b", "a"))
	after, _ := mustDecode(t, d, insertMessage(1, textValue("2"), textValue("3")))
	if before.Row.Relation == after.Row.Relation {
		t.Error("a changed table kept its Relation")
	}
	if len(before.Row.Relation.Columns) != 1 || before.Row.Relation.Columns[0].Name != "a" {
		t.Errorf("the old relation became %+v", before.Row.Relation)
	}
}

func TestDecoder_SkipsAndCountsWhatIsNoEvent(t *testing.T) {
	d := NewDecoder()
	mustDecode(t, d, beginMessage(10, 1))
	// Update, delete, truncate, origin, type, the messages of protocol version
	// 2, and what may yet come.
	for i, kind := range []byte("UDTOYSEcAbPKrp?\x00\xff") {
		if item, ok := mustDecode(t, d, []byte{kind, 1, 2, 3}); ok {
			t.Errorf("%q became %+v", kind, item)
		}
		if d.Skipped() != uint64(i+1) {
			t.Errorf("%d skipped after %q, want %d", d.Skipped(), kind, i+1)
		}
	}
	if !d.InTransaction() {
		t.Error("a skipped message ended the transaction")
	}
}

func TestDecoder_TakesOnlyTransactionalMessages(t *testing.T) {
	d := NewDecoder()
	if item, ok := mustDecode(t, d, logicalMessage(0, "p", "x")); ok {
		t.Errorf("outside a transaction: %+v", item)
	}
	mustDecode(t, d, beginMessage(10, 1))
	if item, ok := mustDecode(t, d, logicalMessage(0, "p", "x")); ok {
		t.Errorf("not transactional: %+v", item)
	}
	if item, ok := mustDecode(t, d, logicalMessage(1, "p", "")); !ok || item.Prefix != "p" || len(item.Content) != 0 {
		t.Errorf("transactional and empty: %+v, %v", item, ok)
	}
	if d.Skipped() != 2 {
		t.Errorf("%d skipped, want 2", d.Skipped())
	}
}

func TestDecoder_RefusesMalformedMessages(t *testing.T) {
	relation := relationMessage(1, "s", "t", "a", "b")
	row := insertMessage(1, textValue("hello"), textValue("world"))
	long := slices.Clone(row)
	long[11] = 200 // the first value's length
	huge := slices.Clone(row)
	copy(huge[9:], []byte{0xff, 0xff, 0xff, 0xff})
	badKind := slices.Clone(row)
	badKind[8] = 'z'
	noTuple := slices.Clone(row)
	noTuple[5] = 'K'
	hugeMessage := logicalMessage(1, "p", "abc")
	copy(hugeMessage[len(hugeMessage)-7:], []byte{0xff, 0xff, 0xff, 0xff})
	begin := beginMessage(100, 1)
	tests := map[string]struct {
		before [][]byte
		msg    []byte
	}{
		"nothing at all":                    {nil, nil},
		"begin inside a transaction":        {[][]byte{begin}, begin},
		"commit without a begin":            {nil, commitMessage(100, 130)},
		"commit of another transaction":     {[][]byte{begin}, commitMessage(101, 130)},
		"transaction that ends too early":   {[][]byte{begin}, commitMessage(100, 99)},
		"row outside a transaction":         {[][]byte{relation}, row},
		"row of an unknown relation":        {[][]byte{begin}, row},
		"more values than columns":          {[][]byte{relationMessage(1, "s", "t", "a"), begin}, row},
		"fewer values than columns":         {[][]byte{relationMessage(1, "s", "t", "a", "b", "c"), begin}, row},
		"value longer than the message":     {[][]byte{relation, begin}, long},
		"value of 4 GiB":                    {[][]byte{relation, begin}, huge},
		"value of an unknown kind":          {[][]byte{relation, begin}, badKind},
		"insert without a new tuple":        {[][]byte{relation, begin}, noTuple},
		"logical message of 4 GiB":          {[][]byte{begin}, hugeMessage},
		"relation that promises 65,535":     {nil, append(relationMessage(1, "s", "t")[:10], 0xff, 0xff)},
		"relation without an end of string": {nil, []byte("Rxxxxschema")},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			d := NewDecoder()
			for _, b := range tc.before {
				mustDecode(t, d, b)
			}
			item, ok, err := d.Decode(tc.msg)
			if !errors.Is(err, ErrMalformed) || ok {
				t.Errorf("%+v, %v, %v, want ErrMalformed", item, ok, err)
			}
		})
	}
}

func TestDecoder_RefusesEveryTruncation(t *testing.T) {
	relation := relationMessage(1, "s", "t", "a", "b")
	begin := beginMessage(100, 1)
	for name, tc := range map[string]struct {
		before [][]byte
		msg    []byte
	}{
		"begin":    {nil, begin},
		"commit":   {[][]byte{begin}, commitMessage(100, 130)},
		"relation": {nil, relation},
		"insert":   {[][]byte{relation, begin}, insertMessage(1, textValue("hello"), textValue("world"))},
		"message":  {[][]byte{begin}, logicalMessage(1, "prefix", "content")},
	} {
		t.Run(name, func(t *testing.T) {
			for n := range len(tc.msg) {
				d := NewDecoder()
				for _, b := range tc.before {
					mustDecode(t, d, b)
				}
				if item, ok, err := d.Decode(tc.msg[:n]); !errors.Is(err, ErrMalformed) || ok {
					t.Errorf("%d of %d bytes: %+v, %v, %v, want ErrMalformed", n, len(tc.msg), item, ok, err)
				}
			}
		})
	}
}

func TestDecoder_SurvivesAnyTimestamp(t *testing.T) {
	for _, micros := range []uint64{0, math.MaxInt64, 1 << 63, math.MaxUint64} {
		msg := beginMessage(10, 1)
		for i := range 8 {
			msg[9+i] = byte(micros >> (56 - 8*i))
		}
		mustDecode(t, NewDecoder(), msg)
	}
}

// Each message is decoded out of a buffer that is overwritten afterwards, as the
// connection's is by the next read.
func TestDecoder_AliasesNothing(t *testing.T) {
	session := capturedSession(t)
	plain, reused := NewDecoder(), NewDecoder()
	var want, got []Item
	for _, msg := range session {
		if item, ok := mustDecode(t, plain, slices.Clone(msg)); ok {
			want = append(want, item)
		}
		buffer := slices.Clone(msg)
		if item, ok := mustDecode(t, reused, buffer); ok {
			got = append(got, item)
		}
		copy(buffer, bytes.Repeat([]byte{0xAA}, len(buffer)))
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("items changed with the buffer:\n%+v\nwant\n%+v", got, want)
	}
	// One value of a row must not grow into the next.
	for _, item := range got {
		for i, v := range item.Row.Values {
			if len(v.Data) != cap(v.Data) {
				t.Errorf("value %d has room for %d more bytes of its neighbour", i, cap(v.Data)-len(v.Data))
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, msg := range capturedSession(f) {
		f.Add(msg, false)
		f.Add(msg, true)
	}
	f.Fuzz(func(t *testing.T, msg []byte, inTx bool) {
		d := NewDecoder()
		mustDecode(t, d, relationMessage(1, "s", "t", "a", "b"))
		for _, seen := range capturedSession(t) {
			if seen[0] == 'R' {
				mustDecode(t, d, seen)
			}
		}
		if inTx {
			mustDecode(t, d, beginMessage(10, 1))
		}
		buffer := slices.Clone(msg)
		item, ok, err := d.Decode(buffer)
		if err != nil {
			if !errors.Is(err, ErrMalformed) || ok {
				t.Fatalf("%v with ok %v", err, ok)
			}
			return
		}
		if !ok {
			return
		}
		if row := item.Row; item.Kind == ItemRow {
			if !inTx || row.Relation == nil || len(row.Values) != len(row.Relation.Columns) {
				t.Fatalf("row %+v", item)
			}
		}
		before := renderItem(item)
		copy(buffer, bytes.Repeat([]byte{0xAA}, len(buffer)))
		if after := renderItem(item); after != before {
			t.Fatalf("item changed with the buffer: %s, was %s", after, before)
		}
	})
}

func BenchmarkDecodeInsert(b *testing.B) {
	d := NewDecoder()
	mustDecode(b, d, relationMessage(1, "outbox", "events", "id", "tenant", "type", "key", "payload", "created"))
	mustDecode(b, d, beginMessage(10, 1))
	msg := insertMessage(1, textValue("019369d0-5a3b-7cc1-8f3e-2f6a7f1c0001"), textValue("tenant_42"),
		textValue("payment.received"), textValue("inv_123"), textValue(`{"payment_id":"`+strings.Repeat("x", 400)+`"}`),
		textValue("2026-11-23 10:00:00.123456+00"))
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	for b.Loop() {
		if _, ok, err := d.Decode(msg); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}
