package cdc

import "encoding/binary"

// Builders of pgoutput messages, field by field as the manual lists them.

func beginMessage(commit LSN, xid uint32) []byte {
	b := binary.BigEndian.AppendUint64([]byte{'B'}, uint64(commit))
	b = binary.BigEndian.AppendUint64(b, 0)
	return binary.BigEndian.AppendUint32(b, xid)
}

func commitMessage(commit, end LSN) []byte {
	b := binary.BigEndian.AppendUint64([]byte{'C', 0}, uint64(commit))
	b = binary.BigEndian.AppendUint64(b, uint64(end))
	return binary.BigEndian.AppendUint64(b, 0)
}

// relationMessage describes a table whose columns are all text.
func relationMessage(id uint32, schema, name string, columns ...string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{'R'}, id)
	b = append(append(b, schema...), 0)
	b = append(append(b, name...), 0)
	b = append(b, 'd')
	b = binary.BigEndian.AppendUint16(b, uint16(len(columns)))
	for _, c := range columns {
		b = append(append(append(b, 0), c...), 0)
		b = binary.BigEndian.AppendUint32(b, 25)
		b = binary.BigEndian.AppendUint32(b, 0xffffffff)
	}
	return b
}

func textValue(s string) Value { return Value{Kind: KindText, Data: []byte(s)} }

func insertMessage(relation uint32, values ...Value) []byte {
	b := binary.BigEndian.AppendUint32([]byte{'I'}, relation)
	b = append(b, 'N')
	b = binary.BigEndian.AppendUint16(b, uint16(len(values)))
	for _, v := range values {
		b = append(b, v.Kind)
		if v.Kind == KindText || v.Kind == KindBinary {
			b = binary.BigEndian.AppendUint32(b, uint32(len(v.Data)))
			b = append(b, v.Data...)
		}
	}
	return b
}

func logicalMessage(flags byte, prefix, content string) []byte {
	b := binary.BigEndian.AppendUint64([]byte{'M', flags}, 0)
	b = append(append(b, prefix...), 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(content)))
	return append(b, content...)
}

// The frames around them on a replication connection.

func copyData(payload []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{'d'}, uint32(4+len(payload)))
	return append(b, payload...)
}

func walFrame(msg []byte) []byte {
	return copyData(append(append([]byte{'w'}, make([]byte, 24)...), msg...))
}

func keepaliveFrame(pos LSN, askReply bool) []byte {
	b := binary.BigEndian.AppendUint64([]byte{'k'}, uint64(pos))
	b = binary.BigEndian.AppendUint64(b, 0)
	if askReply {
		return copyData(append(b, 1))
	}
	return copyData(append(b, 0))
}
