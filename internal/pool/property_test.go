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
	shuffled := s
	shuffled.Hosts, shuffled.Asks = slices.Clone(s.Hosts), slices.Clone(s.Asks)
	r := rand.New(rand.NewPCG(1, uint64(len(s.Hosts))))
	r.Shuffle(len(shuffled.Hosts), func(i, j int) {
		shuffled.Hosts[i], shuffled.Hosts[j] = shuffled.Hosts[j], shuffled.Hosts[i]
	})
	r.Shuffle(len(shuffled.Asks), func(i, j int) {
		shuffled.Asks[i], shuffled.Asks[j] = shuffled.Asks[j], shuffled.Asks[i]
	})
	if other := Reconcile(now, want, shuffled, l); !reflect.DeepEqual(d, other) {
		t.Fatalf("another order of hosts, another answer:\n%+v\n%+v", d, other)
	}
	again := Reconcile(now, want, predict(now, s, d), l)
	if len(again.Actions) > 0 || len(again.Joined) > 0 || len(again.Stopped) > 0 {
		t.Fatalf("applied to its own predicted result it adds %v %v %v\nafter %v %v %v", again.Actions, again.Joined, again.Stopped, d.Actions, d.Joined, d.Stopped)
	}
	checkPower(t, s, d, again, l)
}

// checkPower: whatever a decision powers on, and whatever is unknown of the
// rest, no rack comes above its budget by it.
func checkPower(t rapid.TB, s Snapshot, d, again Decision, l Limits) {
	t.Helper()
	domain := make(map[string]string)
	for _, v := range s.Hosts {
		domain[v.Host.ID] = v.Domain
	}
	watts, more := make(map[string]float64), make(map[string]bool)
	for _, h := range again.Hosts {
		watts[domain[h.ID]] += h.Watts
	}
	for _, a := range d.Actions {
		if a.Do == TurnOn && l.Classes[classOf(s, a.Host)].peak() > 0 {
			more[domain[a.Host]] = true
		}
	}
	for dom := range more {
		if budget, ok := l.Budgets[dom]; ok && watts[dom] > budget {
			t.Fatalf("%s draws up to %g W of its %g after %v", dom, watts[dom], budget, d.Actions)
		}
	}
}

func classOf(s Snapshot, id string) string {
	return s.Hosts[slices.IndexFunc(s.Hosts, func(v View) bool { return v.Host.ID == id })].Class
}

// predict is the snapshot after the actions were recorded and carried out and
// before anybody looked again.
func predict(now time.Time, s Snapshot, d Decision) Snapshot {
	next := s
	next.Hosts = slices.Clone(s.Hosts)
	for i := range next.Hosts {
		in := &next.Hosts[i].Intent
		joined, stopped := slices.Contains(d.Joined, next.Hosts[i].Host.ID), slices.Contains(d.Stopped, next.Hosts[i].Host.ID)
		if joined {
			in.JoinedAt = now
		}
		if stopped {
			in.StoppedAt = now
		}
		if (joined || stopped) && in.SettledAt.IsZero() {
			in.SettledAt = now
		}
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
	l.Max = rapid.SampledFrom([]int{9, 9, 3, 0}).Draw(t, "max")
	l.Spare = rapid.SampledFrom([]int{0, 0, 1}).Draw(t, "spare")
	l.MinOn = rapid.SampledFrom([]time.Duration{0, 5 * time.Minute}).Draw(t, "min on")
	l.CycleBudget = rapid.SampledFrom([]int{0, 2}).Draw(t, "cycle budget")
	l.Stagger = rapid.SampledFrom([]time.Duration{0, 10 * time.Second}).Draw(t, "stagger")
	l.HardOff = rapid.Bool().Draw(t, "hard off")
	l.Agent = rapid.SampledFrom([]AgentRule{AgentRequired, AgentOptional, AgentNone}).Draw(t, "agent rule")
	l.DrainWork = rapid.SampledFrom([]WorkRule{DrainNone, DrainServices, DrainAll}).Draw(t, "drain work")
	if rapid.Bool().Draw(t, "has classes") {
		l.Classes = map[string]Class{
			"owned": {BootWatts: 900, RunWatts: 700, Cost: 1, Standby: rapid.SampledFrom([]int{0, 0, 1}).Draw(t, "standby")},
			"spot":  {BootWatts: 300, RunWatts: 400, Cost: rapid.SampledFrom([]float64{0.5, 2}).Draw(t, "cost"), Spot: true, BootTimeout: 20 * time.Minute},
		}
		l.Budgets = map[string]float64{"rack-a": rapid.SampledFrom([]float64{0, 900, 1300, 2000}).Draw(t, "budget")}
	}
	return l
}

func genSnapshot(t *rapid.T) Snapshot {
	s := Snapshot{At: t0, Asks: rapid.SliceOfN(rapid.Custom(genAsk), 0, 2).Draw(t, "asks")}
	if rapid.IntRange(0, 4).Draw(t, "learned") == 0 {
		s.Times = map[string]Times{"owned": {Boot: Took{Last: slices.Repeat([]float64{100}, 12)}}}
	}
	ago := func(label string, of ...time.Duration) time.Time {
		return t0.Add(-rapid.SampledFrom(of).Draw(t, label))
	}
	for i := range rapid.IntRange(0, 5).Draw(t, "hosts") {
		v := View{Host: Host{
			ID: string(rune('a' + i)), GPUs: 2,
			Class:  rapid.SampledFrom([]string{"owned", "spot"}).Draw(t, "class"),
			Domain: rapid.SampledFrom([]string{"rack-a", "rack-b"}).Draw(t, "domain"),
		}}
		v.Self = rapid.IntRange(0, 9).Draw(t, "self") == 0
		v.Said.Word = Word(rapid.SampledFrom([]int{0, 0, 0, 0, 1, 2, 3, 4}).Draw(t, "word"))
		v.Said.At = ago("said", time.Second, time.Minute, time.Hour)
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
			v.Node.Work = []Alloc{{ID: "a1", Job: "train", Type: rapid.SampledFrom([]string{"batch", "service"}).Draw(t, "type"), GPUs: 1}}
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
	in.JoinedAt = in.OnAt.Add(rapid.SampledFrom([]time.Duration{-time.Minute, -time.Minute, time.Minute}).Draw(t, "joined"))
	in.OffAt = ago("told to go off", 2*time.Minute, 2*time.Hour)
	in.StoppedAt = in.OffAt.Add(rapid.SampledFrom([]time.Duration{-time.Minute, -time.Minute, time.Minute}).Draw(t, "stopped"))
	in.Cycles, in.CyclesOn = rapid.IntRange(0, 3).Draw(t, "cycles"), t0.Format(time.DateOnly)
	in.At = ago("intended", 0, 2*time.Second, 20*time.Second, 2*time.Minute, 6*time.Minute, 20*time.Minute)
	switch rapid.IntRange(0, 4).Draw(t, "outcome") {
	case 0: // open
	case 4:
		in.SettledAt = in.At
		if in.Verb == TurnOn {
			in.Err, in.NoCapacity, in.Refusals = "no capacity", true, rapid.IntRange(0, 2).Draw(t, "refusals")
		}
	case 1:
		in.SettledAt, in.Err, in.Ambiguous = in.At, "timed out", true
	case 2:
		in.SettledAt, in.Err = in.At, "refused"
	default:
		in.SettledAt = in.At
	}
	return in
}

func genAsk(t *rapid.T) Ask {
	return Ask{
		Classes: rapid.SampledFrom([][]string{nil, {"owned"}, {"spot"}, {"owned", "spot"}}).Draw(t, "classes"),
		GPUs:    rapid.IntRange(0, 3).Draw(t, "gpus"), Count: rapid.IntRange(0, 3).Draw(t, "count"),
	}
}

// TestSpread: hosts that only spread tells apart are taken in the order of what
// their domains come to, whether that is counted or compared.
func TestSpread(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		step := rapid.SampledFrom([]int{1, -1}).Draw(t, "step")
		rules := map[int][]rule{1: onRules, -1: offRules}[step]
		domains := make([]*domain, 3)
		for i := range domains {
			domains[i] = &domain{on: rapid.SampledFrom([]int{0, 1, 2, 50}).Draw(t, "on")}
		}
		hosts := make([]*host, rapid.IntRange(0, 9).Draw(t, "hosts"))
		for i := range hosts {
			hosts[i] = &host{
				View: new(View), kind: new(kind), index: i, domain: rapid.SampledFrom(domains).Draw(t, "domain"),
				failed: rapid.IntRange(0, 1).Draw(t, "failed"), cycles: rapid.IntRange(0, 1).Draw(t, "cycles"),
			}
		}
		line(hosts, rules)
		spread(hosts, rules, step)
		if !slices.IsSortedFunc(hosts, func(a, b *host) int { return compare(rules, a, b) }) {
			t.Fatal("not in the order of the rules")
		}
		for _, d := range domains {
			level := d.on
			for _, h := range hosts {
				if h.domain != d {
					continue
				}
				if h.level != level {
					t.Fatalf("a host is taken at level %d, its domain has come to %d", h.level, level)
				}
				level += step
			}
		}
	})
}
