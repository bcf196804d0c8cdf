package redis

import "strconv"

const (
	maxLine  = 64 << 10 // bytes: errors and counts
	maxBulk  = 1 << 20  // bytes of one string
	maxArray = 1 << 16  // elements
)

// resp is where in a stream of RESP2 a reader is. It refuses lengths that the
// client would allocate without having seen the bytes:
// https://redis.io/docs/latest/develop/reference/protocol-spec/.
type resp struct {
	line []byte // so far, of the line that says what comes
	skip int    // bytes of a string that come first
}

// Feed reads on. It is false once the stream is not what it should be.
func (r *resp) Feed(p []byte) bool {
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
