package command

import (
	"strings"
	"testing"

	"github.com/gpupool/gpupool/internal/pool"
)

func TestParseState(t *testing.T) {
	for out, want := range map[string]pool.Power{
		"on": pool.PowerOn, "on\n": pool.PowerOn, " ON \r\n": pool.PowerOn, "Off": pool.PowerOff,
		"": pool.PowerUnknown, "on off": pool.PowerUnknown, "on\noff\n": pool.PowerUnknown,
		"unknown": pool.PowerUnknown, "Chassis Power is on": pool.PowerUnknown, "1": pool.PowerUnknown,
	} {
		if got := parseState([]byte(out)); got != want {
			t.Errorf("%q is %s, want %s", out, got, want)
		}
	}
}

// FuzzParseState checks that no output but the one word is ever a power state,
// and that quoting any output is safe for a log.
func FuzzParseState(f *testing.F) {
	for _, out := range []string{"on\n", "off", "\x00on", "on\x1b[2J", "on on", "ｏn", strings.Repeat("on ", 99)} {
		f.Add([]byte(out))
	}
	f.Fuzz(func(t *testing.T, out []byte) {
		word := strings.TrimSpace(string(out))
		if got := parseState(out); (got == pool.PowerOn) != strings.EqualFold(word, "on") || (got == pool.PowerOff) != strings.EqualFold(word, "off") {
			t.Errorf("%q is %s", out, got)
		}
		d := &Driver{config: settings{password: `p"\`}}
		quote := d.brief(out)
		if len(quote) > 250 || strings.ContainsAny(quote, "\n\r\x1b\x00") || strings.Contains(quote, `p"\`) {
			t.Errorf("%q is quoted as %q", out, quote)
		}
	})
}
