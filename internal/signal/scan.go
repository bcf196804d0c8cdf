package signal

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
)

// token is a word, a text or a sign of a query, and where it begins. It is only
// for saying where mistakes are, and for what must not reach the library.
type token struct {
	at   int
	kind tokenKind
	text string // of a text, what is between the quotes
}

type tokenKind int

const (
	word tokenKind = iota
	quoted
	sign
)

// scan takes a query apart. It takes anything: what is no query is told by who
// parses it.
func scan(s string) []token {
	var tokens []token
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '#': // a comment, to the end of the line
			for i < len(s) && s[i] != '\n' {
				i++
			}
		case strings.IndexByte(" \t\r\n\v\f", c) >= 0:
			i++
		case c == '"' || c == '\'' || c == '`':
			end := closing(s, i)
			tokens = append(tokens, token{i, quoted, unquote(s[i:end])})
			i = end
		case letter(c) || c == '\\' || c >= 0x80:
			end := i + 1
			for end < len(s) && (letter(s[end]) || s[end] >= '0' && s[end] <= '9' || s[end] == '.' || s[end] >= 0x80) {
				end++
			}
			tokens = append(tokens, token{i, word, s[i:end]})
			i = end
		default:
			end := i + 1
			if end < len(s) && s[end] == '=' || strings.HasPrefix(s[i:], "=~") || strings.HasPrefix(s[i:], "!~") {
				end++
			}
			tokens = append(tokens, token{i, sign, s[i:end]})
			i = end
		}
	}
	return tokens
}

func letter(c byte) bool { return c == '_' || c == ':' || c|0x20 >= 'a' && c|0x20 <= 'z' }

// closing is where the text that begins at i ends.
func closing(s string, i int) int {
	quote := s[i]
	for j := i + 1; j < len(s); j++ {
		switch {
		case s[j] == '\\' && quote != '`':
			j++
		case s[j] == quote:
			return j + 1
		}
	}
	return len(s)
}

func unquote(s string) string {
	if s[0] == '\'' && len(s) > 1 {
		s = `"` + strings.ReplaceAll(strings.ReplaceAll(s[1:len(s)-1], `\'`, `'`), `"`, `\"`) + `"`
	}
	if text, err := strconv.Unquote(s); err == nil {
		return text
	}
	return strings.Trim(s, s[:1])
}

// keep writes a name with letters, digits, dashes and underscores alone; any
// other byte as ~ and two hexadecimal digits.
func keep(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if letter(c) && c != ':' || c >= '0' && c <= '9' || c == '-' {
			b.WriteByte(c)
			continue
		}
		fmt.Fprintf(&b, "~%02x", c)
	}
	return b.String()
}

func hash(s string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s)) // never fails
	return fmt.Sprintf("%016x", h.Sum64())
}
