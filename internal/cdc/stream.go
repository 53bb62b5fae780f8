package cdc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/outbox-relay/relay/internal/faultpoint"
	"github.com/outbox-relay/relay/internal/health"
)

// Limits of one batch: large enough to make the hand-over cheap, small enough
// that what stands between the socket and the router stays in the hundreds of
// kilobytes.
const (
	batchItems = 64
	batchBytes = 256 << 10
)

// minStatusGap keeps a busy, foreign workload, whose every commit brings a
// keepalive, from making us send as many status updates.
const minStatusGap = 50 * time.Millisecond

// writeTimeout bounds a status update: the server reads them at any time.
const writeTimeout = 10 * time.Second

// ErrSilent is returned when the server has not said a word, although asked,
// for the silence timeout. A cut network shows no other sign.
var ErrSilent = errors.New("nothing heard from the server")

// ErrEnded is returned when the server has ended the stream by itself: it does
// that only when it shuts down, after it has sent everything.
var ErrEnded = errors.New("the server ended the replication stream")

// StreamOptions are the knobs of a Stream.
type StreamOptions struct {
	Slot        string
	Publication string
	// StatusInterval is the longest time between two status updates. It is
	// lowered to a third of the server's wal_sender_timeout and of
	// SilenceTimeout.
	StatusInterval time.Duration
	// SilenceTimeout is how long nothing may arrive.
	SilenceTimeout time.Duration
	// AtWork is asked after a silence whether the walsender with this process id is busy, as it is while it decodes a
	// large transaction and says nothing. If so, the stream waits on. nil: it is not.
	AtWork func(ctx context.Context, pid uint32) bool
}

// Stream is a started replication stream.
type Stream struct {
	hijacked *pgconn.HijackedConn
	opts     StreamOptions
	interval time.Duration
	decoder  *Decoder

	confirmed atomic.Uint64 // what may be confirmed; only grows
	received  atomic.Uint64 // highest end or keepalive position of this session; only grows
	lastRead  atomic.Int64  // unix nanoseconds of the last byte from the server
	nudged    atomic.Bool   // Confirm or Ask wants the loop to look
	asked     atomic.Bool   // Ask wants an answer of the server

	workSince atomic.Int64 // unix nanoseconds from when on the server has been silent and at work; 0: it has spoken

	waited   time.Time // when the server was last seen at work; belongs to Run
	expired  bool      // the read deadline has passed: it must be set before the next read
	buffered int       // bytes of an unfinished message at the last look

	sent        LSN // flush position of the last status update
	lastStatus  time.Time
	statusCount atomic.Uint64
}

// Start begins to stream from start, or from the slot's own position when that
// is later. The Conn is used up, unless an error comes back. It returns
// ErrSlotTaken when another session has the slot.
//
// recorded is how far all is recorded, at most start: until Confirm raises it,
// status updates carry it. The two differ when a connection is replaced while
// what the old one brought is still on its way.
func (c *Conn) Start(ctx context.Context, opts StreamOptions, start, recorded LSN) (*Stream, error) {
	if recorded > start {
		return nil, fmt.Errorf("start replication at %s: %s is recorded already", start, recorded)
	}
	if !slotName.MatchString(opts.Slot) {
		return nil, fmt.Errorf("start replication: %q is no slot name", opts.Slot)
	}
	err := pglogrepl.StartReplication(ctx, c.pg, opts.Slot, start, pglogrepl.StartReplicationOptions{
		Mode: pglogrepl.LogicalReplication,
		PluginArgs: []string{
			"proto_version '1'",
			"publication_names " + quoteLiteral(pgQuoteIdent(opts.Publication)),
			"messages 'true'",
		},
	})
	if err != nil {
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "55006" {
			return nil, fmt.Errorf("%w: %s", ErrSlotTaken, pg.Message)
		}
		return nil, health.During(health.Stream, fmt.Errorf("start replication from slot %s at %s: %w", opts.Slot, start, err))
	}
	hijacked, err := c.pg.Hijack()
	if err != nil {
		return nil, fmt.Errorf("take over replication connection: %w", err)
	}
	return newStream(hijacked, opts, c.senderTimeout, start, recorded), nil
}

func newStream(hijacked *pgconn.HijackedConn, opts StreamOptions, senderTimeout time.Duration, start, recorded LSN) *Stream {
	s := &Stream{hijacked: hijacked, opts: opts, interval: opts.StatusInterval, decoder: NewDecoder()}
	if s.interval <= 0 {
		s.interval = 10 * time.Second
	}
	if t := senderTimeout / 3; t > 0 && t < s.interval {
		s.interval = t
	}
	if s.opts.SilenceTimeout <= 0 {
		s.opts.SilenceTimeout = 30 * time.Second
	}
	// An idle server speaks when asked, so it must be asked in time.
	if t := s.opts.SilenceTimeout / 3; t < s.interval {
		s.interval = t
	}
	s.received.Store(uint64(start))
	s.confirmed.Store(uint64(recorded))
	s.lastRead.Store(time.Now().UnixNano())
	return s
}

func quoteLiteral(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func pgQuoteIdent(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// Confirm allows the stream to tell the server that everything up to lsn is
// recorded. A value below an earlier one changes nothing. A value above what
// this session has received is refused: the server would believe it, and skip.
// Safe for concurrent use.
func (s *Stream) Confirm(lsn LSN) error {
	if uint64(lsn) > s.received.Load() {
		return fmt.Errorf("confirm %s: this session has received only up to %s", lsn, LSN(s.received.Load()))
	}
	for {
		old := s.confirmed.Load()
		if uint64(lsn) <= old {
			return nil
		}
		if s.confirmed.CompareAndSwap(old, uint64(lsn)) {
			break
		}
	}
	s.nudge()
	return nil
}

// nudge wakes a loop that waits in a read. It looks at the flag after it has set
// its own deadline, so one of the two is always seen.
func (s *Stream) nudge() {
	s.nudged.Store(true)
	_ = s.hijacked.Conn.SetReadDeadline(time.Unix(1, 0))
}

// Ask asks the server for an answer at once, which LastActivity then shows. Safe for
// concurrent use.
func (s *Stream) Ask() {
	s.asked.Store(true)
	s.nudge()
}

// Confirmed is the position that the next status update carries.
func (s *Stream) Confirmed() LSN { return LSN(s.confirmed.Load()) }

// Received is the highest position that this session may confirm.
func (s *Stream) Received() LSN { return LSN(s.received.Load()) }

// AtWorkSince is since when the server has been silent, and busy whenever it was looked at; zero when it has spoken. Safe
// for concurrent use.
func (s *Stream) AtWorkSince() time.Time {
	if at := s.workSince.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// LastActivity is when the server was last heard.
func (s *Stream) LastActivity() time.Time { return time.Unix(0, s.lastRead.Load()) }

// StatusUpdates counts the status updates of this session.
func (s *Stream) StatusUpdates() uint64 { return s.statusCount.Load() }

// Run reads the stream and hands it on in batches until ctx ends or the
// connection fails; it always returns a non-nil error, ctx's at a wanted end.
// While out does not take a batch, Run goes on answering the server. A batch
// belongs to its receiver.
func (s *Stream) Run(ctx context.Context, out chan<- []Item) error {
	stop := context.AfterFunc(ctx, func() { _ = s.hijacked.Conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var batch []Item
	size := 0
	// The first status tells the server that somebody reads.
	if err := s.sendStatus(true); err != nil {
		return err
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		// Hand on what there is before waiting for more.
		if len(batch) > 0 && (s.hijacked.Frontend.ReadBufferLen() == 0 || len(batch) >= batchItems || size >= batchBytes) {
			if err := s.handOver(ctx, out, batch); err != nil {
				return err
			}
			batch, size = nil, 0
		}
		msg, err := s.receive(ctx)
		if err != nil {
			return err
		}
		if msg == nil {
			continue // timer or nudge
		}
		item, ok, err := s.take(msg)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if batch == nil {
			batch = make([]Item, 0, 8)
		}
		batch = append(batch, item)
		for _, v := range item.Row.Values {
			size += len(v.Data)
		}
		size += len(item.Content)
	}
}

// Hold keeps the server from giving up a stream that is not read yet: it sends status
// updates until ctx ends, or the connection does. Run must wait until it has returned.
//
// Source: https://www.postgresql.org/docs/current/runtime-config-replication.html#GUC-WAL-SENDER-TIMEOUT
func (s *Stream) Hold(ctx context.Context) error {
	tick := time.NewTicker(max(s.interval, time.Millisecond))
	defer tick.Stop()
	for {
		if err := s.sendStatus(false); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// handOver gives a batch to the reader, and answers the server while it waits.
func (s *Stream) handOver(ctx context.Context, out chan<- []Item, batch []Item) error {
	select {
	case out <- batch:
		return s.statusIfDue()
	default:
	}
	tick := time.NewTicker(max(s.interval/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case out <- batch:
			// We did not read meanwhile, so silence proves nothing.
			s.lastRead.Store(time.Now().UnixNano())
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if err := s.statusIfDue(); err != nil {
				return err
			}
		}
	}
}

// receive returns the next message, or nil when a timer ended the wait.
func (s *Stream) receive(ctx context.Context) (pgproto3.BackendMessage, error) {
	// A passed deadline fails every read, also in the middle of a message and
	// when bytes are there.
	if s.expired || s.hijacked.Frontend.ReadBufferLen() == 0 {
		if err := s.statusIfDue(); err != nil {
			return nil, err
		}
		_ = s.hijacked.Conn.SetReadDeadline(s.nextTimer())
		s.expired = false
		if s.nudged.Swap(false) || ctx.Err() != nil {
			return nil, nil
		}
	}
	msg, err := s.hijacked.Frontend.Receive()
	if err == nil {
		s.lastRead.Store(time.Now().UnixNano())
		s.workSince.Store(0)
		return msg, nil
	}
	var nerr net.Error
	if errors.As(err, &nerr) && nerr.Timeout() {
		s.expired = true
		// A large row on a slow line comes in many pieces: they are life too.
		if n := s.hijacked.Frontend.ReadBufferLen(); n != s.buffered {
			s.buffered = n
			s.lastRead.Store(time.Now().UnixNano())
		}
		if quiet := time.Since(s.silentSince()); quiet >= s.opts.SilenceTimeout {
			if s.opts.AtWork != nil && s.opts.AtWork(ctx, s.hijacked.PID) {
				s.waited = time.Now() // it has said nothing all the same: who wants proof of life does not get it
				s.workSince.CompareAndSwap(0, s.LastActivity().UnixNano())
				return nil, nil
			}
			return nil, fmt.Errorf("%w for %s", ErrSilent, quiet.Round(time.Second))
		}
		return nil, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, health.During(health.Stream, fmt.Errorf("read replication stream: %w", err))
}

// nextTimer is when a wait for the server must end: for a status update, for a
// confirmation, or because the server has been silent for too long.
func (s *Stream) nextTimer() time.Time {
	at := s.lastStatus.Add(s.interval)
	if s.Confirmed() > s.sent {
		at = earlier(at, s.lastStatus.Add(minStatusGap))
	}
	at = earlier(at, s.silentSince().Add(s.opts.SilenceTimeout))
	// A deadline that has passed already would read nothing at all.
	if soon := time.Now().Add(time.Millisecond); at.Before(soon) {
		return soon
	}
	return at
}

// silentSince is from when on a silence counts: the last byte, or the last look at a server that was at work.
func (s *Stream) silentSince() time.Time {
	if at := s.LastActivity(); at.After(s.waited) {
		return at
	}
	return s.waited
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// take turns a message of the connection into an Item.
func (s *Stream) take(msg pgproto3.BackendMessage) (Item, bool, error) {
	switch m := msg.(type) {
	case *pgproto3.CopyData:
		return s.takeData(m.Data)
	case *pgproto3.ErrorResponse:
		return Item{}, false, health.During(health.Stream, fmt.Errorf("replication stream ended: %w", pgconn.ErrorResponseToPgError(m)))
	case *pgproto3.NoticeResponse:
		// PostgreSQL 18 skips the rows of a publication that it cannot load,
		// and says so only here.
		if m.Code == "55000" && !faultpoint.Planted(faultpoint.NoticeIgnored) {
			return Item{}, false, fmt.Errorf("%w: %s", ErrPublicationMissing, m.Message)
		}
		return Item{}, false, nil
	case *pgproto3.CopyDone, *pgproto3.CommandComplete:
		return Item{}, false, ErrEnded
	case *pgproto3.ParameterStatus, *pgproto3.NotificationResponse:
		return Item{}, false, nil
	default:
		return Item{}, false, fmt.Errorf("replication stream ended: unexpected message %T", msg)
	}
}

func (s *Stream) takeData(data []byte) (Item, bool, error) {
	if len(data) == 0 {
		return Item{}, false, malformed("empty copy data")
	}
	switch data[0] {
	case pglogrepl.XLogDataByteID:
		if len(data) < 25 {
			return Item{}, false, malformed("short WAL data")
		}
		item, ok, err := s.decoder.Decode(data[25:])
		if err == nil && ok && item.Kind == ItemCommit {
			s.raiseReceived(item.EndLSN)
			faultpoint.Hit(faultpoint.AfterCommitMessage)
		}
		if faultpoint.Enabled {
			s.plantedData(data, item)
		}
		return item, ok, err
	case pglogrepl.PrimaryKeepaliveMessageByteID:
		if len(data) < 18 {
			return Item{}, false, malformed("short keepalive")
		}
		pos := LSN(binary.BigEndian.Uint64(data[1:]))
		if data[17] != 0 {
			if err := s.sendStatus(false); err != nil {
				return Item{}, false, err
			}
		}
		if faultpoint.Planted(faultpoint.ConfirmKeepalives) {
			s.believe(pos)
		}
		if s.decoder.InTransaction() {
			return Item{}, false, nil
		}
		s.raiseReceived(pos)
		return Item{Kind: ItemKeepalive, EndLSN: pos}, true, nil
	default:
		return Item{}, false, nil // unknown to this version
	}
}

func (s *Stream) raiseReceived(lsn LSN) {
	if uint64(lsn) > s.received.Load() { // only this goroutine writes it
		s.received.Store(uint64(lsn))
	}
}

// statusIfDue sends a status update when the timer says so, or when there is
// something new to confirm.
func (s *Stream) statusIfDue() error {
	since := time.Since(s.lastStatus)
	switch {
	case s.asked.Swap(false):
		return s.sendStatus(true)
	case s.Confirmed() > s.sent && since >= minStatusGap:
		// Confirmations of a backlog may go out for long while nothing comes in.
		return s.sendStatus(time.Since(s.LastActivity()) >= s.interval)
	case since >= s.interval:
		// Ask for a reply: it tells life from silence.
		return s.sendStatus(true)
	}
	return nil
}

// sendStatus tells the server how far everything is recorded. All three
// positions are set, and all to the same: written, flushed and applied mean one
// thing here, and a zero would be filled in by others' encoders.
//
// Source: https://www.postgresql.org/docs/current/protocol-replication.html#PROTOCOL-REPLICATION-STANDBY-STATUS-UPDATE
func (s *Stream) sendStatus(askReply bool) error {
	lsn := s.Confirmed()
	if uint64(lsn) > s.received.Load() || lsn < s.sent {
		panic(fmt.Sprintf("status update at %s: sent %s, received %s", lsn, s.sent, LSN(s.received.Load())))
	}
	buf := make([]byte, 0, 5+34)
	buf = append(buf, 'd')
	buf = binary.BigEndian.AppendUint32(buf, 4+34)
	buf = append(buf, pglogrepl.StandbyStatusUpdateByteID)
	for range 3 {
		buf = binary.BigEndian.AppendUint64(buf, uint64(lsn))
	}
	if faultpoint.Planted(faultpoint.FlushZero) {
		clear(buf[14:])
	}
	buf = binary.BigEndian.AppendUint64(buf, uint64(time.Since(pgEpoch).Microseconds())) // #nosec G115 -- positive since 2000
	if askReply {
		buf = append(buf, 1)
	} else {
		buf = append(buf, 0)
	}
	faultpoint.Hit(faultpoint.BeforeStatusUpdate)
	_ = s.hijacked.Conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := s.hijacked.Conn.Write(buf); err != nil {
		return fmt.Errorf("send status update: %w", err)
	}
	faultpoint.Hit(faultpoint.AfterStatusUpdate)
	s.sent, s.lastStatus = lsn, time.Now()
	s.statusCount.Add(1)
	return nil
}

// Close ends the stream politely after Run has returned: a last status update,
// the end of the copy, and a short wait for the server to have read both, so
// that a clean stop repeats nothing. After a failure it just closes.
func (s *Stream) Close(grace time.Duration) error {
	defer func() { _ = s.hijacked.Conn.Close() }()
	if grace <= 0 {
		return nil
	}
	deadline := time.Now().Add(grace)
	if err := s.sendStatus(false); err != nil {
		return err
	}
	_ = s.hijacked.Conn.SetDeadline(deadline)
	if _, err := s.hijacked.Conn.Write([]byte{'c', 0, 0, 0, 4}); err != nil {
		return fmt.Errorf("end copy: %w", err)
	}
	for {
		msg, err := s.hijacked.Frontend.Receive()
		var nerr net.Error
		if errors.As(err, &nerr) && nerr.Timeout() && time.Now().Before(deadline) {
			// A late Confirm, or the end of Run's context, set its own deadline.
			_ = s.hijacked.Conn.SetReadDeadline(deadline)
			continue
		}
		if err != nil {
			return fmt.Errorf("wait for the end of the stream: %w", err)
		}
		switch msg.(type) {
		case *pgproto3.ReadyForQuery, *pgproto3.CommandComplete:
			_, _ = s.hijacked.Conn.Write([]byte{'X', 0, 0, 0, 4})
			return nil
		}
	}
}
