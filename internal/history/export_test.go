package history

import (
	"encoding/binary"
	"hash/crc32"
)

// Sealed appends the checksum that belongs to a body, today's number put in.
func Sealed(body []byte) []byte {
	return binary.LittleEndian.AppendUint32(body, crc32.ChecksumIEEE(body))
}
