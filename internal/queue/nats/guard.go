package nats

import (
	"bytes"
	"strconv"
)

const (
	maxLine    = 256 << 10 // bytes: INFO
	maxMessage = 1 << 20   // bytes
)

// protocol reads along what a NATS server says. It refuses messages that the
// client would make room for without having seen the bytes:
// https://docs.nats.io/reference/reference-protocols/nats-protocol.
type protocol struct {
	firstOnly bool // what comes after the first line is TLS

	line []byte // so far
	skip int    // bytes of a message that come first
	off  bool
}

// Feed reads on. It is false once the stream is not what it should be.
func (p *protocol) Feed(b []byte) bool {
	for len(b) > 0 && !p.off {
		if p.skip > 0 {
			n := min(p.skip, len(b))
			p.skip -= n
			b = b[n:]
			continue
		}
		end := bytes.IndexByte(b, '\n')
		part := b
		if end >= 0 {
			part = b[:end+1]
		}
		b = b[len(part):]
		if p.line = append(p.line, part...); len(p.line) > maxLine {
			return false
		}
		if end < 0 {
			continue
		}
		if !p.endLine() {
			return false
		}
		p.line = p.line[:0]
	}
	return true
}

// endLine reads a line that is complete.
func (p *protocol) endLine() bool {
	fields := bytes.Fields(p.line)
	if len(fields) == 0 {
		return false
	}
	switch verb := string(bytes.ToUpper(fields[0])); verb {
	case "INFO", "PING", "PONG", "+OK", "-ERR":
		p.off = p.firstOnly
		return true
	case "MSG", "HMSG":
		if len(fields) < 4 {
			return false
		}
		size, err := strconv.Atoi(string(fields[len(fields)-1]))
		if err != nil || size < 0 || size > maxMessage {
			return false
		}
		if verb == "HMSG" {
			header, err := strconv.Atoi(string(fields[len(fields)-2]))
			if err != nil || header < 0 || header > size {
				return false
			}
		}
		p.skip = size + 2
		return true
	}
	return false
}
