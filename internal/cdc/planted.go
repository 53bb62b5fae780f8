//go:build faultpoints

package cdc

import (
	"encoding/binary"

	"github.com/outbox-relay/relay/internal/faultpoint"
)

// believe takes any position for one that may be confirmed, as the defects do.
func (s *Stream) believe(lsn LSN) {
	s.raiseReceived(lsn)
	if uint64(lsn) > s.confirmed.Load() {
		s.confirmed.Store(uint64(lsn))
	}
}

// plantedData confirms what a piece of WAL data seems to allow.
func (s *Stream) plantedData(data []byte, item Item) {
	switch {
	case faultpoint.Planted(faultpoint.ConfirmOnReceipt) && item.Kind == ItemCommit:
		s.believe(item.EndLSN)
	case faultpoint.Planted(faultpoint.ConfirmComputed):
		s.believe(LSN(binary.BigEndian.Uint64(data[1:]) + uint64(len(data)-25)))
	}
}
