package redis

import (
	"strings"
	"testing"
)

func TestGuard(t *testing.T) {
	for text, want := range map[string]bool{
		"+OK\r\n": true, "-ERR x\r\n:5\r\n": true, "$5\r\nhello\r\n+OK\r\n": true, "*2\r\n$-1\r\n:1\r\n": true,
		"$0\r\n\r\n:1\r\n": true, "*-1\r\n": true, "$3\r\n*9\n\r\n:1\r\n": true,
		"": true, "+no end": true,
		"$1048577\r\n": false, "$-2\r\n": false, "$x\r\n": false, "*65537\r\n": false, "*-2\r\n": false,
		"HTTP/1.1 200 OK\r\n": false, "\n": false, "\r\n": false, "+OK\n": false, "%1\r\n": false,
		"+" + strings.Repeat("x", maxLine) + "\r\n": false,
	} {
		for _, size := range []int{1, 2, 3, 1 << 20} {
			var r resp
			got := true
			for rest := text; rest != "" && got; {
				n := min(size, len(rest))
				got, rest = r.Feed([]byte(rest[:n])), rest[n:]
			}
			if got != want {
				t.Errorf("%.40q in parts of %d: %v, want %v", text, size, got, want)
			}
		}
	}
}

// However a stream is cut, the guard says the same of it.
func FuzzGuard(f *testing.F) {
	for _, s := range []string{"+OK\r\n", "$5\r\nhello\r\n:1\r\n", "*2\r\n$-1\r\n:1\r\n", "$99\r\n", "$1048577\r\n"} {
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, data []byte, cut uint8) {
		var whole, parts resp
		a := whole.Feed(data)
		n := min(int(cut), len(data))
		b := parts.Feed(data[:n]) && parts.Feed(data[n:])
		if a != b {
			t.Errorf("whole %v, cut at %d %v", a, n, b)
		}
		if len(whole.line) > maxLine+1 || whole.skip > maxBulk+2 {
			t.Errorf("the guard keeps %d bytes and skips %d", len(whole.line), whole.skip)
		}
	})
}

func FuzzGroup(f *testing.F) {
	f.Add("workers", int64(3), int64(2), true)
	f.Fuzz(func(t *testing.T, name string, lag, pending int64, told bool) {
		flat := []any{"name", name, "pending", pending, 7}
		if told {
			flat = append(flat[:4], "lag", lag)
		}
		l, p, err := group([]any{"x", flat}[1:], name)
		good := told && lag >= 0 && pending >= 0
		if good != (err == nil) || good && (l != float64(lag) || p != float64(pending)) {
			t.Errorf("group: %v, %v, %v", l, p, err)
		}
		if _, _, err := group([]any{"x"}, name); err == nil {
			t.Error("a group that is no list was read")
		}
	})
}
