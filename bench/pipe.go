package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// pipeWorkers is how many POST loops the bare path has.
const pipeWorkers = 64

// pipe is the limit that the relay is measured beside: a bare pgoutput reader
// that feeds a bare signed POST loop. It matches nothing, records nothing, keeps
// no order, and confirms what it has read, so it loses events when it dies.
func pipe(ctx context.Context, url, slot, target string) error {
	conn, err := pgconn.Connect(ctx, url+"&replication=database")
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if err := pglogrepl.StartReplication(ctx, conn, slot, 0, pglogrepl.StartReplicationOptions{
		Mode: pglogrepl.LogicalReplication, PluginArgs: []string{"proto_version '1'", "publication_names 'pipe'"}}); err != nil {
		return err
	}
	fmt.Println("streaming")
	rows := make(chan [2][]byte, 1024)
	defer close(rows)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: pipeWorkers, DisableCompression: true}}
	var workers sync.WaitGroup
	for range pipeWorkers {
		workers.Go(func() {
			for r := range rows {
				if err := post(client, target, r[0], r[1]); err != nil {
					fmt.Println("post:", err)
				}
			}
		})
	}
	var end pglogrepl.LSN
	next := time.Now().Add(time.Second)
	for {
		if time.Now().After(next) {
			if err := pglogrepl.SendStandbyStatusUpdate(ctx, conn, pglogrepl.StandbyStatusUpdate{
				WALWritePosition: end, WALFlushPosition: end, WALApplyPosition: end}); err != nil {
				return err
			}
			next = time.Now().Add(time.Second)
		}
		wait, cancel := context.WithDeadline(ctx, next)
		msg, err := conn.ReceiveMessage(wait)
		cancel()
		if err != nil {
			if pgconn.Timeout(err) && ctx.Err() == nil {
				continue
			}
			return err
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
			rows <- [2][]byte{m.Tuple.Columns[0].Data, m.Tuple.Columns[5].Data} // id, payload
		case *pglogrepl.CommitMessage:
			end = m.TransactionEndLSN
		}
	}
}

// post sends one payload with both signatures.
func post(client *http.Client, target string, id, payload []byte) error {
	key := []byte("bench-secret")
	body := append(append([]byte(`{"id":"`+string(id)+`","data":`), payload...), '}')
	at := strconv.FormatInt(time.Now().Unix(), 10)
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(string(id) + "." + at + "."))
	mac.Write(body)
	legacy := hmac.New(sha256.New, key)
	legacy.Write(body)
	req, err := http.NewRequest(http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("webhook-id", string(id))
	req.Header.Set("webhook-timestamp", at)
	req.Header.Set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	req.Header.Set("X-Signature", hex.EncodeToString(legacy.Sum(nil)))
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.Body.Close()
}
