package pool

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// checkDecision holds a decision against what must be true of every decision.
func checkDecision(t rapid.TB, now time.Time, want int, s Snapshot, d Decision, l Limits) {
	t.Helper()
	if err := Check(now, want, s, d.Actions, l); err != nil {
		t.Fatalf("the laws: %v", err)
	}
	shuffled := Snapshot{At: s.At, Hosts: slices.Clone(s.Hosts)}
	rand.New(rand.NewPCG(1, uint64(len(s.Hosts)))).Shuffle(len(shuffled.Hosts), func(i, j int) {
		shuffled.Hosts[i], shuffled.Hosts[j] = shuffled.Hosts[j], shuffled.Hosts[i]
	})
	if other := Reconcile(now, want, shuffled, l); !reflect.DeepEqual(d, other) {
		t.Fatalf("another order of hosts, another answer:\n%+v\n%+v", d, other)
	}
	if again := Reconcile(now, want, predict(now, s, d), l); len(again.Actions) > 0 {
		t.Fatalf("applied to its own predicted result it adds %v\nafter %v", again.Actions, d.Actions)
	}
}

// predict is the snapshot after the actions were recorded and carried out and
// before anybody looked again.
func predict(now time.Time, s Snapshot, d Decision) Snapshot {
	next := Snapshot{At: s.At, Hosts: slices.Clone(s.Hosts)}
	for i := range next.Hosts {
		for _, a := range d.Actions {
			if a.Host == next.Hosts[i].Host.ID {
				next.Hosts[i].Intent = Intent{Verb: a.Do, Why: a.Why, At: now, SettledAt: now, Ledger: a.Ledger}
			}
		}
	}
	return next
}

// TestAnyWorld: whatever is seen, in whatever combination, no decision breaks
// a law, depends on the order of hosts, or repeats itself.
func TestAnyWorld(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := genLimits(t)
		s := genSnapshot(t)
		want := rapid.IntRange(-1, len(s.Hosts)+1).Draw(t, "want")
		d := Reconcile(t0, want, s, l)
		checkDecision(t, t0, want, s, d, l)
	})
}

func genLimits(t *rapid.T) Limits {
	l := testLimits()
	l.Min = rapid.IntRange(0, 3).Draw(t, "min")
	l.MaxBooting = rapid.IntRange(1, 3).Draw(t, "max booting")
	l.MaxDraining = rapid.IntRange(1, 3).Draw(t, "max draining")
	l.Max = rapid.SampledFrom([]int{0, 0, 3}).Draw(t, "max")
	l.Spare = rapid.SampledFrom([]int{0, 0, 1}).Draw(t, "spare")
	l.MinOn = rapid.SampledFrom([]time.Duration{0, 5 * time.Minute}).Draw(t, "min on")
	l.CycleBudget = rapid.SampledFrom([]int{0, 2}).Draw(t, "cycle budget")
	l.Stagger = rapid.SampledFrom([]time.Duration{0, 10 * time.Second}).Draw(t, "stagger")
	l.HardOff = rapid.Bool().Draw(t, "hard off")
	l.Agent = rapid.SampledFrom([]AgentRule{AgentRequired, AgentOptional, AgentNone}).Draw(t, "agent rule")
	return l
}

func genSnapshot(t *rapid.T) Snapshot {
	s := Snapshot{At: t0}
	ago := func(label string, of ...time.Duration) time.Time {
		return t0.Add(-rapid.SampledFrom(of).Draw(t, label))
	}
	for i := range rapid.IntRange(0, 5).Draw(t, "hosts") {
		v := View{Host: Host{ID: string(rune('a' + i)), GPUs: 2}}
		v.Power = Power(rapid.IntRange(0, 2).Draw(t, "power"))
		v.PowerAt = ago("power read", time.Second, 30*time.Second, time.Minute)
		v.NodeAt = ago("node read", time.Second, 30*time.Second, time.Minute)
		v.AgentAt = ago("agent read", time.Second, time.Minute)
		v.Node = Node{
			Status:   NodeStatus(rapid.IntRange(0, 4).Draw(t, "node")),
			Eligible: rapid.Bool().Draw(t, "eligible"),
			Draining: rapid.IntRange(0, 4).Draw(t, "draining") == 0,
			Mark:     Mark(rapid.IntRange(0, 3).Draw(t, "mark")),
			GPUs:     rapid.SampledFrom([]int{2, 2, 2, 1, 0}).Draw(t, "gpus"),
		}
		if rapid.IntRange(0, 3).Draw(t, "has work") == 0 {
			v.Node.Work = []Alloc{{ID: "a1", Job: "train", Type: "batch", GPUs: 1}}
		}
		v.Agent = Agent{Status: AgentStatus(rapid.IntRange(0, 2).Draw(t, "agent")), Outside: rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(t, "outside"), Blind: rapid.SampledFrom([]string{"", "", "no driver"}).Draw(t, "blind")}
		v.Intent = genIntent(t, ago)
		s.Hosts = append(s.Hosts, v)
	}
	return s
}

func genIntent(t *rapid.T, ago func(string, ...time.Duration) time.Time) Intent {
	in := Intent{Verb: Verb(rapid.IntRange(0, int(HardOff)).Draw(t, "verb"))}
	if in.Verb == VerbNone {
		return in
	}
	in.FailedBoots = rapid.SampledFrom([]int{0, 0, 1, 2, 20}).Draw(t, "failed boots")
	in.OnAt = ago("powered on", time.Second, 3*time.Minute, time.Hour)
	in.Cycles, in.CyclesOn = rapid.IntRange(0, 3).Draw(t, "cycles"), t0.Format(time.DateOnly)
	in.At = ago("intended", 0, 2*time.Second, 20*time.Second, 2*time.Minute, 6*time.Minute, 20*time.Minute)
	switch rapid.IntRange(0, 3).Draw(t, "outcome") {
	case 0: // open
	case 1:
		in.SettledAt, in.Err, in.Ambiguous = in.At, "timed out", true
	case 2:
		in.SettledAt, in.Err = in.At, "refused"
	default:
		in.SettledAt = in.At
	}
	return in
}
