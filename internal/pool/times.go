package pool

import (
	"math"
	"slices"
	"time"
)

// Times are how long hosts of one class really took, learned from what the
// loop saw happen.
type Times struct {
	Boot  Took `json:"boot"`  // from power-on to in service
	Drain Took `json:"drain"` // from the begin of a drain to a node without work
	Stop  Took `json:"stop"`  // from soft off to a chassis that reads off
}

// Took sums up the latest durations of one kind.
type Took struct {
	// Last are the latest durations, oldest first, in seconds; at most
	// [MaxTook] of them.
	Last []float64 `json:"last_s,omitempty"`
}

// MaxTook is how many durations are kept: enough for a p95, few enough that a
// change of firmware is learned within days.
const MaxTook = 64

// Add returns what is known after one more. Durations that cannot be are left
// out.
func (t Took) Add(d time.Duration) Took {
	if d <= 0 {
		return t
	}
	last := append(append([]float64(nil), t.Last...), d.Seconds())
	return Took{Last: last[max(0, len(last)-MaxTook):]}
}

// Quantile is the q-quantile, 0 < q <= 1, of the latest durations, by nearest
// rank: the smallest of them that at least the fraction q of all do not exceed.
// It is 0 if there are none.
func (t Took) Quantile(q float64) time.Duration {
	if len(t.Last) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(t.Last))
	rank := int(math.Ceil(q * float64(len(sorted))))
	return time.Duration(sorted[min(max(rank, 1), len(sorted))-1] * float64(time.Second))
}

// Stage is a part of a host's life whose duration is learned.
type Stage int

// The stages that there are.
const (
	StageBoot  Stage = iota // see [Times.Boot]
	StageDrain              // see [Times.Drain]
	StageStop               // see [Times.Stop]
)

func (s Stage) String() string { return name(int(s), "boot", "drain", "stop") }

// Sample is one duration that has ended.
type Sample struct {
	Host, Class string
	Stage       Stage
	Took        time.Duration
}

// Add returns what is known after one more. It changes nothing of t.
func (t Times) Add(s Sample) Times {
	switch s.Stage {
	case StageBoot:
		t.Boot = t.Boot.Add(s.Took)
	case StageDrain:
		t.Drain = t.Drain.Add(s.Took)
	case StageStop:
		t.Stop = t.Stop.Add(s.Took)
	}
	return t
}

// Learn finds what ended between two looks at a pool, one after the other, by
// the same process. Each duration is found at most once: where a process dies
// between two looks, what ended there is not learned. l is needed for its
// StaleAfter: of two looks further apart, the later does not say when.
func Learn(before, now Snapshot, l Limits) []Sample {
	if now.At.Sub(before.At) > l.StaleAfter {
		return nil
	}
	was := make(map[string]*View, len(before.Hosts))
	for i := range before.Hosts {
		was[before.Hosts[i].Host.ID] = &before.Hosts[i]
	}
	var samples []Sample
	for i := range now.Hosts {
		v := &now.Hosts[i]
		b := was[v.Host.ID]
		if b == nil {
			continue
		}
		add := func(stage Stage, took time.Duration) {
			samples = append(samples, Sample{v.Host.ID, v.Class, stage, took})
		}
		switch {
		case b.Verb == TurnOn && v.givenBack() && !v.OnAt.IsZero():
			add(StageBoot, v.SettledAt.Sub(v.OnAt))
		case v.Verb == Drain && v.emptied() && !(b.Verb == Drain && b.emptied()):
			add(StageDrain, v.NodeAt.Sub(v.Intent.At))
		case v.Verb == SoftOff && b.Power == PowerOn && v.Power == PowerOff:
			add(StageStop, v.PowerAt.Sub(v.OffAt))
		}
	}
	return samples
}

// emptied reports whether a drain of ours has ended with a node without work.
func (v *View) emptied() bool { return v.drained() && len(v.Node.Work) == 0 }
