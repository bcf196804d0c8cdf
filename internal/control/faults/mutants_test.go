package faults

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var (
	tries       = flag.Int("tries", 20000, "schedules in which the loss of a rule must show")
	withMutants = flag.Bool("mutants", false, "remove each rule in turn and show that a test fails; takes minutes")
)

const (
	reconcile = "../../pool/reconcile.go"
	grow      = "../../pool/grow.go"
	shrink    = "../../pool/shrink.go"
	order     = "../../pool/order.go"
	supply    = "../../pool/supply.go"
	limits    = "../../pool/limits.go"
	phase     = "../../pool/phase.go"
	check     = "../../pool/check.go"
	host      = "../../pool/host.go"
	loop      = "../loop.go"
)

// mutant is a rule that is gone: in file, old is replaced by new.
type mutant struct {
	rule     string
	file     string
	old, new string
	also     []mutant // where the same rule stands too
	// choice: it says what is better, not what is safe, so that a scenario has
	// to tell it.
	choice bool
}

const (
	mustMove = `if l.DrainWork != DrainServices || a.Type != service {`
	mayMove  = `if false {`
)

// rules are those of Reconcile, PhaseOf and the loop. Each is removed together
// with Check as a whole, so that what fails is the world and not a second
// opinion on the same sight.
var rules = []mutant{
	{rule: "a host with work that must stay is not chosen", file: phase, old: mustMove, new: mayMove},
	{rule: "a host with work is not powered off", file: reconcile, old: `if h.loaded() || h.Node.Eligible`, new: `if h.Node.Eligible`, also: []mutant{
		{file: phase, old: `return unused && len(v.Node.Work) == 0`, new: `return unused`},
		{file: reconcile, old: `case h.drained() && h.loaded():`, new: `case false:`},
	}},
	{rule: "processes outside Nomad keep a host on", file: phase, old: `case v.Agent.Outside > 0:`, new: `case v.Agent.Outside > 99:`},
	{rule: "a silent agent keeps a host on", file: phase, old: "	case !passing:\n		return false", new: "	case false:\n		return false"},
	{rule: "an agent is heard where no client has joined", file: reconcile, old: `return h.Node.Status != NodeReady && !busy`, new: `return h.Node.Status != NodeReady || busy && false`},
	{rule: "ineligible, then look again, then drain", file: phase, old: `return v.NodeAt.After(t) && v.PowerAt.After(t)`, new: `return true || v.NodeAt.After(t) && v.PowerAt.After(t)`},
	{rule: "drain before soft off", file: phase, old: `return v.Node.Mark == MarkOurs && !v.Node.Draining && v.Verb != Cordon`, new: `return true`},
	{rule: "an old mark is no drain", file: phase, old: `if unsure && v.Node.Index`, new: `if unsure && false && v.Node.Index`},
	{rule: "the fence after an unknown outcome", file: phase, old: `return i.At.Add(l.Fence)`, new: `return i.At`},
	{rule: "a foreign drain is held", file: phase, old: `n.Draining || v.Verb != VerbNone && !v.Intent.Foreign`, new: `false`},
	{rule: "a foreign ineligibility is held", file: phase, old: "\treturn true, \"made ineligible by somebody else\"\n}\n", new: "\treturn false, \"\"\n}\n"},
	{rule: "a give-back makes none ineligible", file: phase, old: `if !v.givenBack() && !v.Intent.Eligible {`, new: `if !v.givenBack() {`},
	{rule: "a give-back is repeated until it is on record", file: reconcile, old: `if h.Verb == Enable && !h.givenBack() && !h.Said.leave() {`, new: `if false {`},
	{rule: "most that boot", file: grow, old: `if r.booting >= r.l.MaxBooting {`, new: `if r.booting >= r.l.MaxBooting+9 {`},
	{rule: "most that drain", file: shrink, old: `if surplus <= 0 || r.draining >= r.l.MaxDraining {`, new: `if surplus <= 0 {`},
	{rule: "most in service", file: reconcile, old: `r.most = min(len(s.Hosts), l.Max)`, new: `r.most = len(s.Hosts)`},
	{rule: "the floor", file: shrink, old: `max(r.ready-r.base-standing, r.ready-r.most)`, new: `max(r.ready-r.base-standing, r.ready-r.most) + 1`, also: []mutant{{file: shrink, old: `if r.ready <= r.base ||`, new: `if`}}},
	{rule: "stagger of power-ons", file: grow, old: `} else if r.now.Sub(r.lastOn) < r.l.Stagger {`, new: `} else if false {`},
	{rule: "stagger of offs", file: reconcile, old: `if r.now.Sub(r.lastOff) >= r.l.Stagger {`, new: `if true {`},
	{rule: "least time on", file: phase, old: `return !v.OnAt.IsZero() && now.Sub(v.OnAt) < l.MinOn`, new: `return false`},
	{rule: "budget of cycles", file: grow, old: `if r.l.CycleBudget > 0 && h.cycles >= r.l.CycleBudget {`, new: `if false {`},
	{rule: "the ledger goes from intent to intent", file: host, old: `now, l.cyclesOn(today)+1, today`, new: `now, 1, today`},
	{rule: "warm before cold", file: grow, old: `if h.called = true; h.free {`, new: `if h.called = true; false {`},
	{rule: "hard off only after the soft off had its time", file: reconcile, old: `case r.now.Sub(h.Intent.At) < r.l.SoftOffTimeout:`, new: `case false:`},
	{rule: "hard off only by policy", file: reconcile, old: `case r.l.HardOff || h.FailedBoots > 0 && h.Node.Status != NodeReady:`, new: `case true:`},
	{rule: "one that somebody powered on again is asked before its power is cut", file: reconcile, old: `case h.stopped():`, new: `case false:`},
	{rule: "that it went off is put on record", file: reconcile, old: `if !h.stopped() && h.readOff(r.now, r.l) {`, new: `if false {`},
	{rule: "an open soft off does not count", file: reconcile, old: `case h.Verb == SoftOff && h.SettledAt.IsZero():`, new: `case false:`},
	{rule: "a host that does not boot is given up", file: reconcile, old: "} else if h.Overdue {\n", new: "} else if false {\n"},
	{rule: "a failed boot is ineligible before it goes off", file: reconcile, old: "	case h.Node.Eligible:\n		r.record(h, Cordon, why, ledger)", new: "	case false:\n		r.record(h, Cordon, why, ledger)"},
	{rule: "one that does not shut down is pressed", file: reconcile, old: "r.pressOn(h)\n", new: "_ = h\n"},
	{rule: "a late boot counts at once", file: reconcile, old: `r.d.Have = r.have() // with those that come late, and without those that leave`, new: `r.d.Have = r.d.Ready`},
	{rule: "a former life's readiness is not joining", file: phase, old: `return v.Node.Status == NodeReady && !former`, new: `return v.Node.Status == NodeReady || former`},
	{rule: "a node that beats all the while is there", file: phase, old: `v.Node.Index <= v.Intent.NodeIndex && !v.overdue(now, l)`, new: `v.Node.Index <= v.Intent.NodeIndex`},
	{rule: "a boot that nobody sees counts", file: supply, old: `case Unknown, Held:`, new: `case Phase(99):`},
	{rule: "a drained host whose agent is gone is put in service", file: phase, old: `return l.Agent == AgentRequired && v.agent(now, l) != AgentPassing`, new: `return false`, choice: true},
	{rule: "its agent is given time", file: phase, old: `!= AgentPassing && now.Sub(v.Intent.At) >= l.BootTimeout`, new: `!= AgentPassing`, choice: true},
	{rule: "no host is put in service that an operator wants out", file: reconcile, old: `case h.mute(r.now, r.l) && !h.Said.leave():`, new: `case h.mute(r.now, r.l):`, choice: true},
	{rule: "a silent controller is no failed boot", file: phase, old: `if v.Verb == TurnOn && v.Err == "" && !v.overdue(now, l) && !v.Ledger.joined() {`, new: `if false {`, choice: true},
	{rule: "that it joined is put on record", file: reconcile, old: "	r.witness()\n", new: ""},
	{rule: "one that joined is no failed boot", file: reconcile, old: `h.Verb != TurnOn || h.Ledger.joined() ||`, new: `h.Verb != TurnOn ||`, also: []mutant{
		{file: phase, old: `if v.Verb == TurnOn && !v.NoCapacity && !v.Ledger.joined() ||`, new: `if v.Verb == TurnOn ||`},
	}},
	{rule: "watts", file: grow, old: `d.watts+h.kind.peak() > d.budget && h.kind.peak() > 0 {`, new: `d.watts+h.kind.peak() > d.budget && false {`},
	{rule: "watts: what boots counts with its peak", file: supply, old: `case v.Verb == TurnOn && !v.overdue(now, l) && !v.joined(now, l):`, new: `case false:`},
	{rule: "watts: what nobody can read is on", file: supply, old: `return p == Off || p == Quarantined || v.Node.Status`, new: `return p == Off || p == Quarantined || p == Unknown || p == Held || v.Node.Status`},
	{rule: "watts: this tick's own", file: grow, old: `h.domain.watts += h.kind.peak()`, new: `_ = h`},
	{rule: "a refused class rests", file: grow, old: `if until := dry.until(h.Host.Class); r.now.Before(until) {`, new: `if until := dry.until(h.Host.Class); false {`},
	{rule: "refusals in a row double the rest", file: grow, old: `ledger.Refusals = h.kind.dry.n`, new: `ledger.Refusals = 0`},
	{rule: "a refusal wears nothing", file: host, old: `i.OnAt, i.Cycles, i.CyclesOn = before.OnAt, before.Cycles, before.CyclesOn`, new: `_ = before`},
	{rule: "a refused class is used again when it gives", file: supply, old: `v.OnAt.After(d.since) {`, new: `v.OnAt.After(d.since) && false {`, choice: true},
	{rule: "own host: not chosen", file: shrink, old: `if h.Self {`, new: `if false {`},
	{rule: "own host: given back", file: reconcile, old: `case h.Self && !h.Said.leave():`, new: `case false:`, also: []mutant{{file: reconcile, old: `case h.Self: // obey said so`, new: `case false:`}}},
	{rule: "own host: not by a word", file: reconcile, old: `case h.Said.leave() && h.Self && (h.Phase == Ready || h.Phase == Draining):`, new: `case false:`},
	{rule: "own host: not pressed", file: reconcile, old: `case h.Self || !r.mayLosePower(h):`, new: `case !r.mayLosePower(h):`},
	{rule: "own host: not given up", file: reconcile, old: "	case h.Self:\n	case h.Node.Eligible:", new: "	case h.Node.Eligible:"},
	{rule: "word: hold", file: phase, old: `if v.Said.Word == WordHold {`, new: `if false {`},
	{rule: "word: one to leave is taken out", file: reconcile, old: `case h.Said.leave() && h.Phase == Ready:`, new: `case false:`},
	{rule: "word: one to leave is not given back", file: reconcile, old: `(h.Verb != Enable || !h.Node.Eligible) && !h.Said.leave() {`, new: `(h.Verb != Enable || !h.Node.Eligible) {`, also: []mutant{
		{file: phase, old: `case v.Said.leave():
		return v.phaseLeaving()`, new: `case false:`},
	}},
	{rule: "word: off stays off", file: phase, old: `	if v.Said.leave() {
		return Held, v.Said.String()
	}
	if n`, new: `	if n`, also: []mutant{{file: grow, old: `h.Phase == Off && h.free && !h.busy && h.Said.Word == WordNone {`, new: `h.Phase == Off && h.free && !h.busy {`}}},
	{rule: "word: drain stays on", file: phase, old: `case v.Said.Word == WordDrain && v.emptied():`, new: `case false:`},
	{rule: "word: one to leave is not called back", file: grow, old: `!h.called && h.Said.Word == WordNone {`, new: `!h.called {`},
	{rule: "word: on is powered on", file: reconcile, old: `case h.Said.Word == WordOn && h.Phase == Off:`, new: `case false:`},
	{rule: "word: on is not chosen", file: shrink, old: `if h.Said.Word == WordOn {`, new: `if false {`},
	{rule: "word: on ends a quarantine", file: phase, old: `n >= 2 && !v.calledFor() {`, new: `n >= 2 {`, choice: true},
	{rule: "word taken back: least time on", file: reconcile, old: `case h.tooYoung(r.now, r.l) && !h.Said.leave():`, new: `case false:`},
	{rule: "word: another hand is remembered", file: host, old: `Held:     held,`, new: `Held:     held && false,`},
	{rule: "work is moved only where it fits", file: shrink, old: `case !room[h.Host.Class].move(h):`, new: `case !room[h.Host.Class].move(h) && false:`},
	{rule: "work is moved only within its class", file: shrink, old: `r := rooms[h.Host.Class]`, new: `r := rooms[""]`, also: []mutant{
		{file: shrink, old: `rooms[h.Host.Class] = r`, new: `rooms[""] = r`}, {file: shrink, old: `!room[h.Host.Class].move(h)`, new: `!room[""].move(h)`},
		{file: shrink, old: `if h.loaded() && h.Verb == Enable && r.now.Sub(h.Intent.At) < r.l.BootTimeout {`, new: `if false {`},
	}},
	{rule: "work that came back stays for a while", file: shrink, old: `if h.loaded() && h.Verb == Enable && r.now.Sub(h.Intent.At) < r.l.BootTimeout {`, new: `if false {`, choice: true},
	{rule: "work is not moved where hosts stand by", file: shrink, old: `if h.loaded() && r.l.standby() > 0 {`, new: `if false {`, also: []mutant{
		{file: shrink, old: `if h.loaded() && h.Verb == Enable && r.now.Sub(h.Intent.At) < r.l.BootTimeout {`, new: `if false {`},
	}},
	{rule: "standby: they come", file: grow, old: `if k.idle < k.Standby {`, new: `if k.idle < k.Standby-99 {`},
	{rule: "standby: they stay", file: shrink, old: `case !h.loaded() && h.kind.standing <= h.kind.Standby && !tooMany:`, new: `case false && !tooMany:`},
	{rule: "called back: the most in service", file: grow, old: `if r.have() < r.most && d.more()`, new: `if d.more()`},
	{rule: "standby: others are no help", file: reconcile, old: `standing += min(k.Standby, k.idle)`, new: `standing += k.Standby`, also: []mutant{{file: shrink, old: `standing += min(k.Standby, k.standing)`, new: `standing += k.Standby`}}},
	{rule: "standby: besides what is wanted", file: reconcile, old: `return r.base - r.have() + standing`, new: `return r.base - r.have() + 0*standing`},
	{rule: "spare hosts", file: reconcile, old: `max(want+l.Spare, l.Min)`, new: `max(want, l.Min)`},
	{rule: "learned boot timeout", file: limits, old: `if learned := l.learned[v.Class]; learned > 0 && v.FailedBoots == 0 {`, new: `if learned := l.learned[v.Class]; learned > 99*time.Hour {`, choice: true},
	{rule: "learned: a second try has its time", file: limits, old: `learned > 0 && v.FailedBoots == 0 {`, new: `learned > 0 {`, choice: true},
	{rule: "learned: from enough", file: limits, old: `if len(t.Boot.Last) < learnedFrom {`, new: `if false {`, choice: true},
	{rule: "learned: within bounds", file: limits, old: `return min(max(learned, most/learnedLeast, l.PowerConfirm), most)`, new: `return learned`, choice: true},
	{rule: "asks: a host that fits", file: grow, old: `waiting, misfits := r.waiting(asks)`, new: `waiting, misfits := r.waiting(asks[:0])`, choice: true},
	{rule: "asks: instead of one that fits nothing", file: grow, old: `r.short()+misfits > 0`, new: `r.short()+0*misfits > 0`, choice: true},
	{rule: "asks: what comes serves them", file: grow, old: `if n := min(a.Count, free/a.GPUs); n > 0 &&`, new: `if n := min(a.Count, free/a.GPUs); n > 99 &&`, choice: true},
	{rule: "on: health", file: order, old: `return cmp.Compare(a.failed, b.failed)`, new: `return 0`, choice: true},
	{rule: "on: cost", file: order, old: `return cmp.Compare(a.kind.Cost, b.kind.Cost)`, new: `return 0`, choice: true},
	{rule: "on: certainty", file: order, old: `return compareBool(a.kind.Spot, b.kind.Spot)`, new: `return 0`, choice: true},
	{rule: "on: spread", file: order, old: `{"spread", crowding, showLevel},`, new: ``, choice: true},
	{rule: "on: efficiency", file: order, old: `return cmp.Compare(a.efficiency, b.efficiency)`, new: `return 0`, choice: true},
	{rule: "on: wear", file: order, old: `return cmp.Compare(a.cycles, b.cycles)`, new: `return 0`, choice: true},
	{rule: "off: work", file: order, old: `return compareBool(a.loaded(), b.loaded())`, new: `return 0`, choice: true},
	{rule: "off: use", file: order, old: `return compareBool(a.awaited, b.awaited)`, new: `return 0`, choice: true},
	{rule: "off: GPU-hours lost", file: order, old: `return cmp.Compare(a.lost, b.lost)`, new: `return 0`, choice: true},
	{rule: "off: GPUs busy", file: order, old: `return cmp.Compare(a.GPUsBusy, b.GPUsBusy)`, new: `return 0`, choice: true},
	{rule: "off: cost", file: order, old: `return cmp.Compare(b.kind.Cost, a.kind.Cost)`, new: `return 0`, choice: true},
	{rule: "off: certainty", file: order, old: `return compareBool(b.kind.Spot, a.kind.Spot)`, new: `return 0`, choice: true},
	{rule: "off: spread", file: order, old: `return crowding(b, a)`, new: `return 0`, choice: true},
	{rule: "off: efficiency", file: order, old: `return cmp.Compare(b.efficiency, a.efficiency)`, new: `return 0`, choice: true},
	{rule: "the lease before each act", file: loop, old: `return held && g == gen && until.Sub(now) >= l.cfg.ActTimeout`, new: `_, _, _ = g, until, held; return true`},
	{rule: "record before act", file: loop, old: "	intent, err := l.cfg.Store.Record(ctx, a.Host, v.Intend(a, now, gen))\n	if err != nil {", new: "	intent, err := l.cfg.Store.Record(ctx, a.Host, v.Intend(a, now, gen))\n	if false && err != nil {"},
	{rule: "acts end in time", file: loop, old: `// ActTimeout from now is before the lease ends, as was just made sure.
	ctx, cancel := context.WithTimeout(ctx, l.cfg.ActTimeout)`, new: `ctx, cancel := context.WithTimeout(ctx, 20*l.cfg.ActTimeout)`},
	{rule: "memory is read before sight", file: loop, old: `id := s.Hosts[i].Host.ID`, new: `id := s.Hosts[0].Host.ID`},
}

// laws are those of Check. Reconcile keeps them too, so what notices that one
// is gone is its own table of unsafe actions.
var laws = []mutant{
	{rule: "no such host", file: check, old: `if !known {`, new: `if !known { continue }; if false {`},
	{rule: "one action a host", file: check, old: `if v.do != VerbNone {`, new: `if false {`},
	{rule: "not Unknown, not Held", file: check, old: `case Unknown, Held:`, new: `case Phase(99):`},
	{rule: "looked at since", file: check, old: `!v.NodeAt.After(t) || !v.PowerAt.After(t)`, new: `false && t.IsZero()`},
	{rule: "fresh sight", file: check, old: `if c.now.Sub(v.NodeAt) > c.l.StaleAfter {`, new: `if false {`},
	{rule: "power-on: read as off", file: check, old: `v.Power == PowerOff && c.now.Sub(v.PowerAt) <= c.l.StaleAfter, "its`, new: `true, "its`},
	{rule: "power-on: quarantine", file: check, old: `v.phase != Quarantined, "it`, new: `true, "it`},
	{rule: "power-on: budget of cycles", file: check, old: `c.l.CycleBudget == 0 || v.cyclesOn(date(c.now)) < c.l.CycleBudget`, new: `true`},
	{rule: "power-on: ledger", file: check, old: `a.Ledger.OnAt.Equal(c.now) && a.Ledger.Cycles > 0`, new: `true`},
	{rule: "enable: node ready", file: check, old: `node.Status == NodeReady, "its node is not ready"`, new: `true, "its node is not ready"`},
	{rule: "enable: registered since", file: check, old: `v.Verb != TurnOn || node.Index == 0 || node.Index > v.Intent.NodeIndex || v.overdue(c.now, c.l)`, new: `true`},
	{rule: "enable: not while it shuts down", file: check, old: `v.Verb != SoftOff && v.Verb != HardOff, "it is shutting down"`, new: `true, "it is shutting down"`},
	{rule: "cordon: in service", file: check, old: `v.phase == Ready || c.neverJoined(v), "it is not in service"`, new: `true, "it is not in service"`},
	{rule: "cordon: least time on", file: check, old: `v.OnAt.IsZero() || c.now.Sub(v.OnAt) >= c.l.MinOn || v.Said.leave() || c.neverJoined(v)`, new: `true`},
	{rule: "cordon and drain: work that must stay", file: check, old: `		if !byRule && v.Said.Word != WordDrain && v.Said.Word != WordOff {`, new: `		if false && !byRule {`},
	{rule: "drain: ineligible", file: check, old: `!node.Eligible, "it is still eligible, so work may land on it"`, new: `true, "it is still eligible"`},
	{rule: "the deciding process's own host", file: check, old: `!v.Self || a.Do == TurnOn || a.Do == Enable`, new: `true`},
	{rule: "word: hold", file: check, old: "case WordHold:\n		against = true", new: "case WordHold:"},
	{rule: "word: drain", file: check, old: `against = a.Do == TurnOn || a.Do == Enable || (a.Do == SoftOff || a.Do == HardOff) && v.phase == Draining`, new: `against = false`},
	{rule: "word: off", file: check, old: "against = a.Do == TurnOn || a.Do == Enable\n", new: "against = false\n"},
	{rule: "word: on", file: check, old: `against = a.Do == Drain || a.Do == Cordon && !c.neverJoined(v) || a.Do == SoftOff && v.phase == Draining`, new: `against = false`},
	{rule: "off: work", file: check, old: "	node := v.Node\n	c.require(a, len(node.Work) == 0, \"it has work\")", new: "	node := v.Node\n"},
	{rule: "off: eligible", file: check, old: `!node.Eligible, "it is eligible, so work may land on it"`, new: `true, "it is eligible"`},
	{rule: "off: drain ended", file: check, old: `!node.Draining, "its drain`, new: `true, "its drain`},
	{rule: "off: our drain", file: check, old: `node.Mark == MarkOurs && began || v.Verb == SoftOff || v.Verb == HardOff || c.neverJoined(v)`, new: `true || began`},
	{rule: "off: our last drain", file: check, old: `node.Index == 0 || node.Index > v.Intent.NodeIndex
	c`, new: `true
	c`},
	{rule: "off: joined before", file: check, old: `if v.JoinedAt.After(v.OnAt) && v.Verb == TurnOn || `, new: `if `},
	{rule: "off: least time on", file: check, old: `v.phase != Draining || v.OnAt.IsZero() || c.now.Sub(v.OnAt) >= c.l.MinOn || v.Said.leave()`, new: `true`},
	{rule: "off: power read", file: check, old: `v.Power != PowerUnknown && c.now.Sub(v.PowerAt) <= c.l.StaleAfter`, new: `true`},
	{rule: "off: agent passing", file: check, old: `passing || c.l.Agent == AgentOptional, "its agent does`, new: `true, "its agent does`},
	{rule: "off: outside work", file: check, old: `!passing || v.Agent.Outside == 0 || c.l.Agent == AgentNone`, new: `true`},
	{rule: "off: blind agent", file: check, old: `c.l.Agent == AgentOptional || v.Agent.Blind == ""`, new: `true`},
	{rule: "off: ledger", file: check, old: `a.Ledger.OffAt.Equal(c.now), "it`, new: `true, "it`},
	{rule: "hard off: policy", file: check, old: `c.l.HardOff || v.FailedBoots > 0 && node.Status != NodeReady`, new: `true`},
	{rule: "hard off: asked before", file: check, old: `v.Verb == SoftOff && !v.SettledAt.IsZero() || v.Verb == HardOff, "it was`, new: `true, "it was`},
	{rule: "hard off: asked in this life", file: check, old: `!v.StoppedAt.After(v.OffAt), "somebody`, new: `true, "somebody`},
	{rule: "hard off: its time", file: check, old: `c.now.Sub(v.Intent.At) >= c.l.SoftOffTimeout, "it still`, new: `true, "it still`},
	{rule: "together: booting", file: check, old: `t.booting+t.on > c.l.MaxBooting {`, new: `false {`},
	{rule: "together: booting unseen", file: check, old: `case (v.phase == Unknown || v.phase == Held) && v.Verb == TurnOn && inTime && !c.dark(v):`, new: `case false:`},
	{rule: "together: draining", file: check, old: `t.draining+t.surplus > c.l.MaxDraining {`, new: `false {`},
	{rule: "together: most", file: check, old: `t.called && have > most {`, new: `false && have > most {`},
	{rule: "together: floor", file: check, old: `t.surplus > 0 && stay < min(floor, most) {`, new: `false && stay > 0 {`},
	{rule: "together: stagger on", file: check, old: `(t.on > 1 || c.now.Sub(t.lastOn) < c.l.Stagger)`, new: `false`},
	{rule: "together: stagger off", file: check, old: `(t.off > 1 || c.now.Sub(t.lastOff) < c.l.Stagger)`, new: `false`},
	{rule: "together: standby", file: check, old: `stay < standby {`, new: `false {`},
	{rule: "together: warm first", file: check, old: "			if asWell {", new: "			if asWell && false {"},
	{rule: "together: power budget", file: check, old: `total > budget*(1+1e-9) {`, new: `false && total > budget {`},
	{rule: "together: refused class", file: check, old: `!c.now.Before(wait[v.Class]), "its`, new: `true, "its`},
}

// blindCheck turns Check off.
var blindCheck = mutant{rule: "Check", file: check, old: "	c.each(actions)\n", new: "	return nil\n"}

// TestMutantsAreCurrent: what a mutant replaces is there, once. Without this
// the table would rot between nights.
func TestMutantsAreCurrent(t *testing.T) {
	all := append(append([]mutant{blindCheck}, rules...), laws...)
	for _, m := range all {
		all = append(all, m.also...)
	}
	for _, m := range all {
		if _, err := m.apply(nil); err != nil {
			t.Error(err)
		}
	}
}

// apply is the file without the rule; on what an earlier mutant made of it, if
// it did.
func (m mutant) apply(source []byte) ([]byte, error) {
	if source == nil {
		var err error
		if source, err = os.ReadFile(m.file); err != nil {
			return nil, err
		}
	}
	if n := strings.Count(string(source), m.old); n != 1 {
		return nil, fmt.Errorf("%s: %q is %d times in %s, want once", m.rule, m.old, n, m.file)
	}
	return []byte(strings.Replace(string(source), m.old, m.new, 1)), nil
}

// TestMutants removes one rule after the other and runs the tests that must
// notice.
func TestMutants(t *testing.T) {
	if !*withMutants {
		t.Log("run with -mutants; make nightly does")
		return
	}
	for _, m := range rules {
		t.Run("rule/"+m.rule, func(t *testing.T) {
			t.Parallel()
			var out string
			var failed bool
			if !m.choice {
				out, failed = underMutants(t, append([]mutant{blindCheck, m}, m.also...), ".", "-run", "TestFiles$|TestSchedules", "-args", "-schedules", fmt.Sprint(*tries), "-failures", "1")
			}
			if !failed { // too rare a chance, or a second line of defence: a scenario tells it
				out, failed = underMutants(t, append([]mutant{blindCheck, m}, m.also...), "../../pool", "-run", "TestScenarios")
			}
			report(t, out, failed)
		})
	}
	for _, m := range laws {
		t.Run("law/"+m.rule, func(t *testing.T) {
			t.Parallel()
			out, failed := underMutants(t, []mutant{m}, "../../pool", "-run", "TestCheckRefuses")
			report(t, out, failed)
		})
	}
}

func report(t *testing.T, out string, failed bool) {
	t.Helper()
	switch {
	case strings.Contains(out, "[build failed]"):
		t.Errorf("does not compile:\n%s", out)
	case !failed:
		t.Error("NOT NOTICED")
	default:
		t.Logf("noticed: %s", notice(out))
	}
}

// notice is the first thing that a failed run complains of.
func notice(out string) string {
	for line := range strings.Lines(out) {
		if _, rest, ok := strings.Cut(line, "_test.go:"); ok {
			_, rest, _ = strings.Cut(rest, ": ")
			rest, _, _ = strings.Cut(strings.Trim(strings.TrimSpace(rest), `[]"`), `" "`)
			if rest != "" {
				return rest[:min(len(rest), 110)]
			}
		}
	}
	return strings.TrimSpace(out[:min(len(out), 110)])
}

// underMutants runs go test on a package as if rules were gone.
func underMutants(t *testing.T, gone []mutant, pkg string, args ...string) (string, bool) {
	t.Helper()
	dir := t.TempDir()
	changed := map[string][]byte{}
	replace := map[string]string{}
	for i, m := range gone {
		file, err := filepath.Abs(m.file)
		if err != nil {
			t.Fatal(err)
		}
		source, err := m.apply(changed[file])
		if err != nil {
			t.Fatal(err)
		}
		changed[file] = source
		replace[file] = filepath.Join(dir, fmt.Sprintf("%d.go", i))
		if err := os.WriteFile(replace[file], source, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(path, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", append([]string{"test", "-vet=off", "-count=1", "-overlay", path, pkg}, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err != nil
}
