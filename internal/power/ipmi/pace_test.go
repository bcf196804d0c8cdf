package ipmi

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		answers     []time.Duration
		least, most time.Duration // of the wait
	}{
		"nothing seen":              {nil, firstWait, firstWait},
		"quick":                     {[]time.Duration{ms, ms, 2 * ms}, leastWait, leastWait},
		"no time at all":            {[]time.Duration{0}, leastWait, leastWait},
		"far, seen once":            {[]time.Duration{100 * ms}, 200 * ms, 200 * ms},
		"far and steady":            {[]time.Duration{200 * ms, 200 * ms, 200 * ms, 200 * ms, 200 * ms, 200 * ms}, 250 * ms, 260 * ms},
		"slow for once":             {[]time.Duration{5 * ms, 5 * ms, 5 * ms, 400 * ms}, 230 * ms, 300 * ms},
		"slower than is waited for": {[]time.Duration{5 * time.Second}, mostWait, mostWait},
	} {
		var p pace
		for _, took := range c.answers {
			p.answered(took)
		}
		if got := p.wait(); got < c.least || got > c.most {
			t.Errorf("%s: waits %s, want %s to %s", name, got, c.least, c.most)
		}
	}
}

// A request waits longer each time, and hardly twice the same time in a whole
// rack.
func TestLonger(t *testing.T) {
	seen := make(map[time.Duration]bool)
	for range 50 {
		wait := leastWait
		for tries := 1; tries < usualTimes; tries++ {
			next := longer(wait, tries)
			if most := wait + wait*2/3; next < wait || next > most || tries > 1 && next < wait*3/2 {
				t.Fatalf("after try %d: waits %s, %s before", tries, next, wait)
			}
			wait = next
		}
		seen[wait] = true
	}
	if len(seen) < 2 {
		t.Error("all waits are alike")
	}
}
