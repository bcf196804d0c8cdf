package main

import (
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What cannot be reckoned is said, and not reckoned.
func TestRefusals(t *testing.T) {
	short := filepath.Join(t.TempDir(), "short.csv")
	if err := os.WriteFile(short, []byte("offset_s,arrivals\n0,5\n60,6\n120,7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"shorter than two days":     {short},
		"multiple of 5m, up to 12h": {"--lead", "24h", short},
		"--lead is 7m0s":            {"--lead", "7m", short},
		"--peak is 0":               {"--peak", "0", short},
		"no such file":              {short + ".none"},
	} {
		if err := run(args, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
}

// Demand that never changes needs what it is, less what waits until five
// minutes are over, whatever a rule knows.
func TestSteadyDemandCostsItself(t *testing.T) {
	b := newBlocks(flat(3*24*60, 7), 20, 1)
	for _, k := range knowledge {
		hours, _ := b.floor(k, 0.01)
		if mean := hours / 48; mean < 20*0.8 || mean > 20 {
			t.Errorf("%s: %.2f replicas for 20 of work", k.name, mean)
		}
	}
}

// Who knows more pays no more, and bursts that show in nothing are paid for
// all the time.
func TestWhoKnowsMorePaysNoMore(t *testing.T) {
	arrivals := flat(6*24*60, 2)
	for i := range arrivals {
		if i%97 >= 85 && i%97 < 90 {
			arrivals[i] = 40
		}
	}
	b := newBlocks(arrivals, 40, 1)
	before := math.Inf(1)
	for _, k := range knowledge {
		hours, classes := b.floor(k, 0.01)
		if hours > before*(1+1e-9) {
			t.Errorf("%s, %d classes: %.1f replica-hours, more than %.1f with fewer", k.name, classes, hours, before)
		}
		before = hours
	}
	if one, _ := b.floor(knowledge[0], 0.01); one < 20*120 {
		t.Errorf("one count for bursts to 40 costs %.0f replica-hours in 120 hours", one)
	}
}

func TestLateWork(t *testing.T) {
	for _, c := range []struct {
		n, want float64
	}{{10, 0}, {5, 40}, {2.5, 10*2.0/3 + 40}, {0.1, 10*98.0/99 + 40}} {
		if got := lateWork([]float64{10, 10, 10, 10, 10}, 1, c.n); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%v replicas: %.3f of 50 late, want %.3f", c.n, got, c.want)
		}
	}
}

func flat(n int, v float64) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = v
	}
	return out
}
