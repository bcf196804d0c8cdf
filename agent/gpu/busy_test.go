package gpu

import (
	"errors"
	"testing"
	"time"
)

// sampled is a device whose driver keeps samples of the busy share.
type sampled struct {
	Device
	samples []BusySample
	err     error
}

func (d *sampled) BusySamples(since uint64) (newer []BusySample, err error) {
	for _, s := range d.samples {
		if s.At > since {
			newer = append(newer, s)
		}
	}
	return newer, d.err
}

// TestBusySince: the samples are in no order, the first reading looks back one
// period only, and a clock that was set back does not end the samples for good.
func TestBusySince(t *testing.T) {
	const second = 1_000_000
	d := &sampled{}
	s := &slot{device: d, period: time.Second}
	want := func(share float64, found bool) {
		t.Helper()
		if got, ok, err := s.busySince(); got != share || ok != found || err != nil {
			t.Errorf("busySince = %g, %t, %v, want %g, %t", got, ok, err, share, found)
		}
	}
	want(0, false)
	d.samples = []BusySample{{101 * second, 0.5}, {90 * second, 1}, {100.5 * second, 0.25}, {10 * second, 1}}
	want(0.375, true)
	want(0, false)
	d.samples = append(d.samples, BusySample{102 * second, 1}, BusySample{101.5 * second, 7})
	want(1, true) // no more than all the time

	d.samples = []BusySample{{50 * second, 0.5}} // an hour ago, as it were
	for range forgetAfter {
		want(0, false)
	}
	want(0.5, true)

	d.err = errors.New("busy")
	if _, found, err := s.busySince(); found || err != nil {
		t.Errorf("a failure that is no end: %t, %v, want nothing found", found, err)
	}
	d.err = ErrResetRequired
	if _, _, err := s.busySince(); !errors.Is(err, ErrLost) {
		t.Errorf("a lost GPU: %v, want it to be lost", err)
	}
}
