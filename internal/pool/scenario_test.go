package pool

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// TestScenarios runs the scripts in testdata/scenarios. Each is a conversation: `pool`
// sets the limits and `class` those of a class, `host` says what is seen of one
// host and what was last done to it, `asks` what work waits, `learned` how long
// boots took, `decide` prints what follows. Every decision is also checked against
// the laws, for independence of order, and for adding nothing when it is
// applied to its own result. Rewrite the expected output with
//
//	go test ./internal/pool -run Scenarios -rewrite
//
// and commit the change only if you understand what caused it.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata/scenarios", func(t *testing.T, path string) {
		sc := scenario{limits: testLimits(), now: t0}
		datadriven.RunTest(t, path, sc.run)
	})
}

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func testLimits() Limits {
	return Limits{
		Max: 1000, MaxBooting: 2, MaxDraining: 1,
		PowerConfirm: time.Minute, BootTimeout: 15 * time.Minute, SoftOffTimeout: 5 * time.Minute,
		StaleAfter: 45 * time.Second, Fence: 10 * time.Second,
	}
}

type scenario struct {
	limits Limits
	now    time.Time
	views  []View
	asks   []Ask
	times  map[string]Times
}

func (sc *scenario) run(t *testing.T, d *datadriven.TestData) string {
	switch d.Cmd {
	case "pool":
		for _, a := range d.CmdArgs {
			sc.setLimit(t, d, a)
		}
		return ""
	case "class":
		sc.setClass(t, d)
		return ""
	case "host":
		sc.setHost(t, d)
		return ""
	case "asks": // asks 2x8 1x4=(h100,b200); without more, nothing waits
		sc.asks = nil
		for _, a := range d.CmdArgs {
			ask := Ask{Classes: a.Vals}
			if _, err := fmt.Sscanf(a.Key, "%dx%d", &ask.Count, &ask.GPUs); err != nil {
				d.Fatalf(t, "%q: %v", a.Key, err)
			}
			sc.asks = append(sc.asks, ask)
		}
		return ""
	case "learned": // learned h100=(12,90s): twelve boots of 90 s
		sc.times = map[string]Times{}
		for _, a := range d.CmdArgs {
			var times Times
			for range atoi(t, d, a.Vals[0]) {
				times = times.Add(Sample{Stage: StageBoot, Took: dur(t, d, a.Vals[1])})
			}
			sc.times[a.Key] = times
		}
		return ""
	case "decide":
		want := 0
		d.ScanArgs(t, "want", &want)
		return sc.decide(t, want)
	}
	d.Fatalf(t, "unknown command %q", d.Cmd)
	return ""
}

func (sc *scenario) setLimit(t *testing.T, d *datadriven.TestData, a datadriven.CmdArg) {
	val := func() string { return a.Vals[0] }
	switch a.Key {
	case "min":
		sc.limits.Min = atoi(t, d, val())
	case "max-booting":
		sc.limits.MaxBooting = atoi(t, d, val())
	case "max-draining":
		sc.limits.MaxDraining = atoi(t, d, val())
	case "max":
		sc.limits.Max = atoi(t, d, val())
	case "spare":
		sc.limits.Spare = atoi(t, d, val())
	case "cycle-budget":
		sc.limits.CycleBudget = atoi(t, d, val())
	case "min-on":
		sc.limits.MinOn = dur(t, d, val())
	case "stagger":
		sc.limits.Stagger = dur(t, d, val())
	case "hard-off":
		sc.limits.HardOff = true
	case "agent":
		sc.limits.Agent = enum(t, d, val(), AgentRequired, AgentOptional, AgentNone)
	case "drain-work":
		sc.limits.DrainWork = enum(t, d, val(), DrainNone, DrainServices, DrainAll)
	case "budget": // budget=(rack-a,2000)
		if sc.limits.Budgets == nil {
			sc.limits.Budgets = map[string]float64{}
		}
		sc.limits.Budgets[a.Vals[0]] = float64(atoi(t, d, a.Vals[1]))
	default:
		d.Fatalf(t, "unknown limit %q", a.Key)
	}
}

func (sc *scenario) setClass(t *testing.T, d *datadriven.TestData) {
	var c Class
	for _, a := range d.CmdArgs[1:] {
		switch a.Key {
		case "watts": // watts=(boot,run)
			c.BootWatts, c.RunWatts = float64(atoi(t, d, a.Vals[0])), float64(atoi(t, d, a.Vals[1]))
		case "cost":
			c.Cost = float64(atoi(t, d, a.Vals[0]))
		case "spot":
			c.Spot = true
		case "standby":
			c.Standby = atoi(t, d, a.Vals[0])
		case "boot-timeout":
			c.BootTimeout = dur(t, d, a.Vals[0])
		default:
			d.Fatalf(t, "unknown word %q", a.Key)
		}
	}
	if sc.limits.Classes == nil {
		sc.limits.Classes = map[string]Class{}
	}
	sc.limits.Classes[d.CmdArgs[0].Key] = c
}

// setHost reads a host's line. What is not said is the usual: two GPUs, all
// fingerprinted where a node is ready, an eligible node, everything read one
// second ago, a passing agent on a ready node, and nothing done to it so far.
func (sc *scenario) setHost(t *testing.T, d *datadriven.TestData) {
	v := View{Host: Host{ID: d.CmdArgs[0].Key, NodeName: d.CmdArgs[0].Key, GPUs: 2}}
	seen := sc.now.Add(-time.Second)
	v.NodeAt, v.PowerAt, v.AgentAt = seen, seen, seen
	v.Node.Status = NodeAbsent
	for _, a := range d.CmdArgs[1:] {
		switch a.Key {
		case "class":
			v.Class = a.Vals[0]
		case "rack":
			v.Domain = a.Vals[0]
		case "has": // GPUs
			v.Host.GPUs = atoi(t, d, a.Vals[0])
			if v.Node.Status == NodeReady {
				v.Node.GPUs = v.Host.GPUs
			}
		case "self":
			v.Self = true
		case "says": // says=(off,alice,new-fans) or says=(off,alice,new-fans,2m)
			if err := v.Said.Word.UnmarshalText([]byte(a.Vals[0])); err != nil {
				d.Fatalf(t, "%v", err)
			}
			v.Said.By, v.Said.Reason, v.Said.At = a.Vals[1], a.Vals[2], sc.now
			if len(a.Vals) > 3 {
				v.Said.At = sc.now.Add(-dur(t, d, a.Vals[3]))
			}
		case "power":
			v.Power = enum(t, d, a.Vals[0], PowerUnknown, PowerOff, PowerOn)
			if v.Power == PowerUnknown {
				v.PowerErr = "no answer"
			}
		case "node":
			v.Node.Status = enum(t, d, a.Vals[0], NodeUnknown, NodeAbsent, NodeDown, NodeInit, NodeReady)
			v.Node.Eligible = v.Node.Status != NodeAbsent
			if v.Node.Status == NodeReady {
				v.Node.GPUs, v.Agent.Status = v.Host.GPUs, AgentPassing
			}
		case "problem":
			v.Node.Problem = a.Vals[0]
		case "index": // index=(now,at the last act)
			v.Node.Index, v.Intent.NodeIndex = uint64(atoi(t, d, a.Vals[0])), uint64(atoi(t, d, a.Vals[1]))
		case "ineligible":
			v.Node.Eligible = false
		case "draining":
			v.Node.Eligible, v.Node.Draining = false, true
		case "mark":
			v.Node.Mark = enum(t, d, a.Vals[0], MarkNone, MarkOurs, MarkReleased, MarkForeign)
		case "gpus":
			v.Node.GPUs = atoi(t, d, a.Vals[0])
		case "work", "services": // work=(train,train:3h), the latter for three hours already
			typ := map[string]string{"work": "batch", "services": service}[a.Key]
			for _, job := range a.Vals {
				job, age, _ := strings.Cut(job, ":")
				alloc := Alloc{ID: fmt.Sprintf("a%d", len(v.Node.Work)+1), Job: job, Type: typ, GPUs: 1}
				if age != "" {
					alloc.Since = sc.now.Add(-dur(t, d, age))
				}
				v.Node.Work = append(v.Node.Work, alloc)
			}
		case "agent":
			v.Agent.Status = enum(t, d, a.Vals[0], AgentUnknown, AgentFailing, AgentPassing)
		case "blind":
			v.Agent.Blind = a.Vals[0]
		case "outside":
			v.Agent.Outside = atoi(t, d, a.Vals[0])
		case "age":
			old := sc.now.Add(-dur(t, d, a.Vals[0]))
			v.NodeAt, v.PowerAt, v.AgentAt = old, old, old
		case "power-age":
			v.PowerAt = sc.now.Add(-dur(t, d, a.Vals[0]))
		case "did": // did=(cordon,30s) or did=(turn-on,30s,ambiguous)
			ledger, index := v.Ledger, v.Intent.NodeIndex
			v.Intent = readIntent(t, d, sc.now, a.Vals)
			if v.Verb == SoftOff || v.Verb == HardOff {
				ledger.OffAt = v.Intent.At
			}
			v.Ledger, v.Intent.NodeIndex = ledger, index
		case "failed-boots":
			v.FailedBoots = atoi(t, d, a.Vals[0])
		case "cycles": // today
			v.Cycles, v.CyclesOn = atoi(t, d, a.Vals[0]), sc.now.Format(time.DateOnly)
		case "on-for":
			v.OnAt = sc.now.Add(-dur(t, d, a.Vals[0]))
		case "joined": // since its power-on
			v.OnAt, v.JoinedAt = v.Intent.At, sc.now.Add(-time.Minute)
		case "was-off": // since it was told to go off
			v.StoppedAt = v.OffAt.Add(time.Minute)
		case "refusals": // before the last one
			v.Refusals = atoi(t, d, a.Vals[0])
		default:
			d.Fatalf(t, "unknown word %q", a.Key)
		}
	}
	for i := range sc.views {
		if sc.views[i].Host.ID == v.Host.ID {
			sc.views[i] = v
			return
		}
	}
	sc.views = append(sc.views, v)
}

func readIntent(t *testing.T, d *datadriven.TestData, now time.Time, vals []string) Intent {
	var in Intent
	if err := in.Verb.UnmarshalText([]byte(vals[0])); err != nil {
		d.Fatalf(t, "%v", err)
	}
	in.At = now.Add(-dur(t, d, vals[1]))
	in.SettledAt = in.At
	for _, how := range vals[2:] {
		switch how {
		case "open":
			in.SettledAt = time.Time{}
		case "after-foreign":
			in.Foreign = true
		case "while-held":
			in.Held = true
		case "while-eligible":
			in.Eligible = true
		case "ambiguous":
			in.Ambiguous, in.Err = true, "timed out"
		case "failed":
			in.Err = "refused"
		case "no-capacity":
			in.Err, in.NoCapacity = "no capacity", true
		default:
			d.Fatalf(t, "unknown outcome %q", how)
		}
	}
	return in
}

func (sc *scenario) decide(t *testing.T, want int) string {
	s := Snapshot{At: sc.now, Hosts: sc.views, Asks: sc.asks, Times: sc.times}
	dec := Reconcile(sc.now, want, s, sc.limits)
	checkDecision(t, sc.now, want, s, dec, sc.limits)
	var b strings.Builder
	fmt.Fprintf(&b, "want %d, have %d, ready %d\n", dec.Want, dec.Have, dec.Ready)
	for _, h := range dec.Hosts {
		line := fmt.Sprintf("  %s %s", h.ID, h.Phase)
		if h.Overdue {
			line += " (overdue)"
		}
		if h.Why != "" {
			line += ": " + h.Why
		}
		fmt.Fprintln(&b, line)
	}
	for _, a := range dec.Actions {
		fmt.Fprintf(&b, "-> %s\n", a)
	}
	for _, id := range dec.Joined {
		fmt.Fprintf(&b, "on record: %s has joined\n", id)
	}
	for _, id := range dec.Stopped {
		fmt.Fprintf(&b, "on record: %s went off\n", id)
	}
	if dec.Note != "" {
		fmt.Fprintf(&b, "note: %s\n", dec.Note)
	}
	return b.String()
}

func enum[T fmt.Stringer](t *testing.T, d *datadriven.TestData, s string, of ...T) T {
	for _, v := range of {
		if v.String() == s {
			return v
		}
	}
	d.Fatalf(t, "%q is none of %v", s, of)
	panic("unreachable")
}

func atoi(t *testing.T, d *datadriven.TestData, s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	return n
}

func dur(t *testing.T, d *datadriven.TestData, s string) time.Duration {
	v, err := time.ParseDuration(s)
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	return v
}
