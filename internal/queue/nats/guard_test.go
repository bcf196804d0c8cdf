package nats

import (
	"strings"
	"testing"
)

func TestProtocol(t *testing.T) {
	for text, want := range map[string]bool{
		"INFO {}\r\nPING\r\n+OK\r\n": true, "-ERR 'x'\r\n": true, "info {}\r\n": true,
		"MSG a 1 5\r\nhello\r\nPING\r\n": true, "MSG a 1 reply 3\r\nX\n9\r\nPONG\r\n": true, "MSG a 1 0\r\n\r\nPING\r\n": true,
		"HMSG a 1 2 4\r\nhhbb\r\nPING\r\n": true, "INFO {": true, "": true,
		"MSG a 1 1048577\r\n": false, "MSG a 1 -1\r\n": false, "MSG a 1 9223372036854775807\r\n": false, "MSG a 5\r\n": false,
		"HMSG a 1 5 4\r\n": false, "HTTP/1.1 200 OK\r\n": false, "\r\n": false,
		"INFO " + strings.Repeat("x", maxLine) + "\r\n": false,
	} {
		for _, size := range []int{1, 2, 3, 1 << 20} {
			var p protocol
			got := true
			for rest := text; rest != "" && got; {
				n := min(size, len(rest))
				got, rest = p.Feed([]byte(rest[:n])), rest[n:]
			}
			if got != want {
				t.Errorf("%.40q in parts of %d: %v, want %v", text, size, got, want)
			}
		}
	}
	tls := protocol{firstOnly: true}
	if !tls.Feed([]byte("INFO {}\r\n\x16\x03\x01\n\n\nMSG")) {
		t.Error("what comes after the first line was read")
	}
}

// However a stream is cut, the guard says the same of it.
func FuzzProtocol(f *testing.F) {
	for _, s := range []string{"INFO {}\r\nPING\r\n", "MSG a 1 5\r\nhello\r\n", "HMSG a 1 2 4\r\nhhbb\r\n", "MSG a 1 1048577\r\n"} {
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, data []byte, cut uint8) {
		var whole, parts protocol
		a := whole.Feed(data)
		n := min(int(cut), len(data))
		b := parts.Feed(data[:n]) && parts.Feed(data[n:])
		if a != b {
			t.Errorf("whole %v, cut at %d %v", a, n, b)
		}
	})
}
