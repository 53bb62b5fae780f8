package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/outbox-relay/relay/internal/signature"
)

// pipeWorkers is how many POST loops the bare path has.
const pipeWorkers = 64

// Columns of outbox.events in the stream.
const (
	columnID, columnTenant, columnType, columnPayload, columnCreated = 0, 1, 4, 5, 7
	columnCount                                                      = 9
)

// pipe is the limit that the relay is measured beside: a bare pgoutput reader that feeds a bare signed POST loop. It
// matches nothing, records nothing, keeps no order, and confirms what it has read, so it loses events when it dies.
func pipe(ctx context.Context, database, slot, target string) error {
	to, err := url.Parse(target)
	if err != nil {
		return fmt.Errorf("parse target: %w", err)
	}
	signer, err := signature.NewSigner(secret)
	if err != nil {
		return err
	}
	conn, err := pgconn.Connect(ctx, database+"&replication=database")
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := pglogrepl.StartReplication(ctx, conn, slot, 0, pglogrepl.StartReplicationOptions{
		Mode: pglogrepl.LogicalReplication, PluginArgs: []string{"proto_version '1'", "publication_names 'pipe'"}}); err != nil {
		return fmt.Errorf("start replication: %w", err)
	}
	fmt.Println("streaming")

	posts := make(chan post, 1024)
	transport := &http.Transport{MaxIdleConnsPerHost: pipeWorkers, DisableCompression: true}
	var workers sync.WaitGroup
	for range pipeWorkers {
		workers.Go(func() {
			for p := range posts {
				if err := p.send(transport, to, signer); err != nil && ctx.Err() == nil {
					fmt.Println("pipe:", err)
				}
			}
		})
	}
	err = feed(ctx, conn, posts)
	close(posts)
	workers.Wait()
	if ctx.Err() != nil {
		return nil // it was asked to stop
	}
	return err
}

// feed reads the stream, and confirms each second how far it has come.
func feed(ctx context.Context, conn *pgconn.PgConn, posts chan<- post) error {
	var end pglogrepl.LSN
	for {
		second, cancel := context.WithTimeout(ctx, time.Second)
		err := read(second, conn, posts, &end)
		cancel()
		if !pgconn.Timeout(err) || ctx.Err() != nil {
			return err
		}
		if err := pglogrepl.SendStandbyStatusUpdate(ctx, conn, pglogrepl.StandbyStatusUpdate{
			WALWritePosition: end, WALFlushPosition: end, WALApplyPosition: end}); err != nil {
			return fmt.Errorf("confirm: %w", err)
		}
	}
}

// read reads until ctx ends, and keeps the end of the last transaction in end.
func read(ctx context.Context, conn *pgconn.PgConn, posts chan<- post, end *pglogrepl.LSN) error {
	for {
		msg, err := conn.ReceiveMessage(ctx)
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		data, ok := msg.(*pgproto3.CopyData)
		if !ok || data.Data[0] != pglogrepl.XLogDataByteID {
			continue
		}
		x, err := pglogrepl.ParseXLogData(data.Data[1:])
		if err != nil {
			return err
		}
		m, err := pglogrepl.Parse(x.WALData)
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *pglogrepl.InsertMessage:
			if len(m.Tuple.Columns) != columnCount {
				return fmt.Errorf("a row has %d columns, expected %d", len(m.Tuple.Columns), columnCount)
			}
			posts <- newPost(m.Tuple.Columns)
		case *pglogrepl.CommitMessage:
			*end = m.TransactionEndLSN
		}
	}
}

// post is one event on the bare path. It owns its bytes.
type post struct {
	id   string
	body []byte
}

// newPost renders a body of the size that the relay sends.
func newPost(c []*pglogrepl.TupleDataColumn) post {
	b := make([]byte, 0, len(c[columnPayload].Data)+256)
	for _, part := range []struct {
		before string
		column int
	}{{`{"id":"`, columnID}, {`","type":"`, columnType}, {`","timestamp":"`, columnCreated}, {`","tenant_id":"`, columnTenant},
		{`","data":`, columnPayload}} {
		b = append(append(b, part.before...), c[part.column].Data...)
	}
	return post{id: string(c[columnID].Data), body: append(b, '}')}
}

func (p post) send(transport http.RoundTripper, to *url.URL, signer *signature.Signer) error {
	header := http.Header{"Content-Type": {"application/json"}, "User-Agent": {"pipe"}}
	signer.Headers(header, p.id, time.Now().Unix(), p.body)
	resp, err := transport.RoundTrip(&http.Request{Method: http.MethodPost, URL: to, Host: to.Host, Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(bytes.NewReader(p.body)), ContentLength: int64(len(p.body))})
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the receiver says %s", resp.Status)
	}
	return nil
}
