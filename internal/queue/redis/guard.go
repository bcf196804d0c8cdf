package redis

import (
	"errors"
	"net"
	"strconv"
)

// errNoRESP ends a connection to something that does not answer as Redis does.
var errNoRESP = errors.New("the answer is not in Redis's protocol, or larger than any that was asked for")

const (
	maxLine  = 64 << 10 // bytes: errors and counts
	maxBulk  = 1 << 20  // bytes of one string
	maxArray = 1 << 16  // elements
)

// guard reads along what Redis answers and ends the connection at a length
// that the client would allocate without having seen the bytes. It knows
// RESP2: https://redis.io/docs/latest/develop/reference/protocol-spec/.
type guard struct {
	net.Conn
	resp resp
}

func (g *guard) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if !g.resp.feed(p[:n]) {
		_ = g.Close()
		return 0, errNoRESP
	}
	return n, err
}

// resp is where in a stream of RESP2 a reader is.
type resp struct {
	line []byte // so far, of the line that says what comes
	skip int    // bytes of a string that come first
}

// feed reads on. It is false once the stream is not what it should be.
func (r *resp) feed(p []byte) bool {
	for len(p) > 0 {
		if r.skip > 0 {
			n := min(r.skip, len(p))
			r.skip -= n
			p = p[n:]
			continue
		}
		c := p[0]
		p = p[1:]
		if c != '\n' {
			if r.line = append(r.line, c); len(r.line) > maxLine {
				return false
			}
			continue
		}
		if !r.endLine() {
			return false
		}
		r.line = r.line[:0]
	}
	return true
}

// endLine reads a line that is complete.
func (r *resp) endLine() bool {
	n := len(r.line)
	if n < 2 || r.line[n-1] != '\r' {
		return false
	}
	text := string(r.line[1 : n-1])
	switch r.line[0] {
	case '+', '-', ':':
		return true
	case '$':
		size, err := strconv.Atoi(text)
		if err != nil || size < -1 || size > maxBulk {
			return false
		}
		if size >= 0 {
			r.skip = size + 2
		}
		return true
	case '*':
		size, err := strconv.Atoi(text)
		return err == nil && size >= -1 && size <= maxArray
	}
	return false
}
