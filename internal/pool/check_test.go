package pool

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func old(d time.Duration) time.Time { return t0.Add(-d) }

// TestCheckRefuses gives Check one unsafe action for each law. A law that is
// removed from Check makes its line fail.
func TestCheckRefuses(t *testing.T) {
	serving := View{
		Host: Host{ID: "h", GPUs: 2},
		Seen: Seen{
			Power: PowerOn, PowerAt: t0, NodeAt: t0, AgentAt: t0,
			Node:  Node{Status: NodeReady, Eligible: true, GPUs: 2},
			Agent: Agent{Status: AgentPassing},
		},
	}
	drained := serving
	drained.Node.Eligible, drained.Node.Mark = false, MarkOurs
	off := View{Host: serving.Host, Seen: Seen{Power: PowerOff, PowerAt: t0, NodeAt: t0, Node: Node{Status: NodeAbsent}}}
	with := func(v View, change func(*View)) View { change(&v); return v }
	says := func(v View, w Word) View { v.Said = Said{Word: w, By: "alice"}; return v }
	works := func(v View, typ string) View { v.Node.Work = []Alloc{{ID: "a", Type: typ}}; return v }
	shuttingDown := with(drained, func(v *View) { v.Intent = Intent{Verb: SoftOff, At: old(time.Hour), SettledAt: old(time.Hour)} })
	cutOff := with(serving, func(v *View) {
		v.Node.Status, v.Node.Eligible = NodeDown, false
		v.Intent = Intent{Verb: TurnOn, At: old(time.Hour), SettledAt: old(time.Hour), Ledger: Ledger{OnAt: old(time.Hour)}}
	})
	long := old(time.Hour)

	for _, tt := range []struct {
		why   string // part of the error
		do    Verb
		view  View
		limit func(*Limits)
	}{
		{why: "it has work", do: SoftOff, view: with(drained, func(v *View) { v.Node.Work = []Alloc{{ID: "a"}} })},
		{why: "it is eligible", do: SoftOff, view: with(drained, func(v *View) { v.Node.Eligible = true })},
		{why: "its drain has not finished", do: SoftOff, view: with(drained, func(v *View) { v.Node.Draining = true })},
		{why: "no drain of ours", do: SoftOff, view: with(drained, func(v *View) {
			v.Node.Mark = MarkNone
			v.Intent = Intent{Verb: Cordon, At: long, SettledAt: long}
		})},
		{why: "no drain of ours", do: SoftOff, view: with(drained, func(v *View) {
			v.Node.Index, v.Intent = 7, Intent{Verb: Drain, At: long, NodeIndex: 7} // the mark is an older one
		})},
		{why: "busy outside Nomad", do: SoftOff, view: with(drained, func(v *View) { v.Agent.Outside = 1 })},
		{why: "its agent does not say", do: SoftOff, view: with(drained, func(v *View) { v.Agent.Status = AgentFailing })},
		{why: "its agent cannot tell", do: SoftOff, view: with(drained, func(v *View) { v.Agent.Blind = "driver not loaded" })},
		{why: "its agent does not say", do: SoftOff, view: with(drained, func(v *View) { v.AgentAt = long })},
		{why: "its power was not read", do: SoftOff, view: with(drained, func(v *View) { v.PowerAt = long })},
		{why: "hard off is not allowed", do: HardOff, view: with(drained, func(v *View) { v.Intent = Intent{Verb: SoftOff, At: long, SettledAt: long} })},
		{why: "it was not asked", do: HardOff, view: drained, limit: func(l *Limits) { l.HardOff = true }},
		{why: "it was not asked", do: HardOff, view: with(drained, func(v *View) { v.Intent = Intent{Verb: SoftOff, At: long} }), limit: func(l *Limits) { l.HardOff = true }},
		{why: "somebody powered it on again", do: HardOff, view: with(drained, func(v *View) {
			v.Intent = Intent{Verb: SoftOff, At: long, SettledAt: long, Ledger: Ledger{OffAt: long, StoppedAt: old(time.Minute)}}
		}), limit: func(l *Limits) { l.HardOff = true }},
		{why: "busy outside Nomad", do: SoftOff, view: with(drained, func(v *View) { v.Node.Status, v.Agent.Outside = NodeDown, 1 })},
		{why: "it still has time", do: HardOff, limit: func(l *Limits) { l.HardOff = true }, view: with(drained, func(v *View) {
			v.Intent = Intent{Verb: SoftOff, At: t0.Add(-time.Minute), SettledAt: t0.Add(-time.Minute)}
		})},
		{why: "not looked at since", do: SoftOff, view: with(drained, func(v *View) { v.Intent = Intent{Verb: Drain, At: t0, SettledAt: t0} })},
		{why: "not looked at since", do: SoftOff, view: with(drained, func(v *View) {
			v.Intent = Intent{Verb: Drain, At: t0.Add(-time.Second), Ambiguous: true, SettledAt: t0.Add(-time.Second)}
		})},
		{why: "Nomad was last read", do: SoftOff, view: with(drained, func(v *View) { v.NodeAt = long })},
		{why: "the host is held", do: SoftOff, view: with(drained, func(v *View) { v.Node.Mark = MarkForeign })},
		{why: "the host is unknown", do: TurnOn, view: with(off, func(v *View) { v.Power = PowerUnknown })},
		{why: "was not read as off", do: TurnOn, view: serving},
		{why: "in quarantine", do: TurnOn, view: with(off, func(v *View) {
			v.Intent = Intent{Verb: HardOff, At: t0.Add(-time.Minute), SettledAt: t0.Add(-time.Minute), Ledger: Ledger{FailedBoots: 3}}
		})},
		{why: "cycles of the day", do: TurnOn, limit: func(l *Limits) { l.CycleBudget = 2 }, view: with(off, func(v *View) {
			v.Cycles, v.CyclesOn = 2, t0.Format(time.DateOnly)
		})},
		{why: "not written down", do: TurnOn, view: off},
		{why: "not written down", do: SoftOff, view: drained},
		{why: "least time", do: Cordon, limit: func(l *Limits) { l.MinOn = time.Hour }, view: with(serving, func(v *View) { v.OnAt = t0.Add(-time.Minute) })},
		{why: "least time", do: SoftOff, limit: func(l *Limits) { l.MinOn = time.Hour }, view: with(drained, func(v *View) { v.OnAt = t0.Add(-time.Minute) })},
		{why: "it has work", do: Cordon, view: with(serving, func(v *View) { v.Node.Work = []Alloc{{ID: "a"}} })},
		{why: "it is not in service", do: Cordon, view: drained},
		{why: "would stay in service", do: Cordon, view: serving, limit: func(l *Limits) { l.Min = 1 }},
		{why: "still eligible", do: Drain, view: serving},
		{why: "it has work", do: Drain, view: with(drained, func(v *View) { v.Node.Work = []Alloc{{ID: "a"}} })},
		{why: "its node is not ready", do: Enable, view: off},
		{why: "has not registered since", do: Enable, view: with(drained, func(v *View) {
			v.Node.Index = 7
			v.Intent = Intent{Verb: TurnOn, At: t0.Add(-time.Minute), SettledAt: t0.Add(-time.Minute), NodeIndex: 7}
		})},
		{why: "it is shutting down", do: Enable, view: with(drained, func(v *View) { v.Intent = Intent{Verb: SoftOff, At: long, SettledAt: long} })},
		{why: "not a thing to do", do: VerbNone, view: serving},

		{why: "it has work", do: Cordon, view: works(serving, "service")},
		{why: "it has work", do: Cordon, view: works(serving, "batch"), limit: func(l *Limits) { l.DrainWork = DrainServices }},
		{why: "it has work", do: Drain, view: works(drained, "batch"), limit: func(l *Limits) { l.DrainWork = DrainServices }},
		{why: "it has work", do: SoftOff, view: works(drained, "service"), limit: func(l *Limits) { l.DrainWork = DrainAll }},
		{why: "it has work", do: SoftOff, view: says(works(drained, "batch"), WordOff)},
		{why: "the process that decides", do: Cordon, view: with(serving, func(v *View) { v.Self = true })},
		{why: "the process that decides", do: Drain, view: says(with(drained, func(v *View) { v.Self = true }), WordDrain)},
		{why: "the process that decides", do: SoftOff, view: says(with(drained, func(v *View) { v.Self = true }), WordOff)},
		{why: "the process that decides", do: HardOff, view: with(shuttingDown, func(v *View) { v.Self = true }), limit: func(l *Limits) { l.HardOff = true }},
		{why: "alice says hold", do: TurnOn, view: says(off, WordHold)},
		{why: "alice says hold", do: Enable, view: says(drained, WordHold)},
		{why: "alice says drain", do: TurnOn, view: says(off, WordDrain)},
		{why: "alice says drain", do: Enable, view: says(drained, WordDrain)},
		{why: "alice says drain", do: SoftOff, view: says(with(drained, func(v *View) { v.Node.Mark = MarkReleased }), WordDrain)},
		{why: "alice says off", do: TurnOn, view: says(off, WordOff)},
		{why: "alice says off", do: Enable, view: says(drained, WordOff)},
		{why: "alice says on", do: Cordon, view: says(serving, WordOn)},
		{why: "alice says on", do: Drain, view: says(drained, WordOn)},
		{why: "alice says on", do: SoftOff, view: says(drained, WordOn)},
		{why: "it is not in service", do: Cordon, view: with(cutOff, func(v *View) { v.JoinedAt = old(30 * time.Minute) })},
		{why: "no drain of ours", do: SoftOff, view: with(cutOff, func(v *View) { v.JoinedAt = old(30 * time.Minute) })},
	} {
		t.Run(tt.do.String()+" "+tt.why, func(t *testing.T) {
			l := testLimits()
			if tt.limit != nil {
				tt.limit(&l)
			}
			err := Check(t0, 0, Snapshot{At: t0, Hosts: []View{tt.view}}, []Action{{Host: "h", Do: tt.do}}, l)
			if !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), tt.why) {
				t.Errorf("got %v, want an unsafe %q", err, tt.why)
			}
		})
	}
}

// TestCheckRefusesTogether is the same for the laws that concern the pool.
func TestCheckRefusesTogether(t *testing.T) {
	host := func(id string, seen Seen, did Verb) View {
		v := View{Host: Host{ID: id, GPUs: 2}, Seen: seen}
		if did != VerbNone {
			v.Intent = Intent{Verb: did, At: t0.Add(-2 * time.Minute), SettledAt: t0.Add(-2 * time.Minute)}
		}
		return v
	}
	off := Seen{Power: PowerOff, PowerAt: t0, NodeAt: t0, Node: Node{Status: NodeAbsent}}
	booting := Seen{Power: PowerOn, PowerAt: t0, NodeAt: t0, Node: Node{Status: NodeAbsent}}
	serving := Seen{Power: PowerOn, PowerAt: t0, NodeAt: t0, AgentAt: t0, Node: Node{Status: NodeReady, Eligible: true, GPUs: 2}, Agent: Agent{Status: AgentPassing}}
	draining := serving
	draining.Node.Eligible = false

	in := func(v View, class, rack string) View { v.Class, v.Domain = class, rack; return v }
	refused := host("a", off, TurnOn)
	refused.NoCapacity, refused.Err, refused.SettledAt = true, "none left", old(50*time.Second)
	silent := host("a", booting, TurnOn)
	silent.Power = PowerUnknown

	for _, tt := range []struct {
		why     string
		hosts   []View
		actions []Action
	}{
		{"boot at once", []View{silent, host("b", off, VerbNone), host("c", off, VerbNone)}, []Action{{Host: "b", Do: TurnOn}, {Host: "c", Do: TurnOn}}},
		{"boot at once", []View{func() View { silent.Said.Word = WordHold; return silent }(), host("b", off, VerbNone), host("c", off, VerbNone)}, []Action{{Host: "b", Do: TurnOn}, {Host: "c", Do: TurnOn}}},
		{"power budget", []View{in(host("a", serving, VerbNone), "big", "rack"), in(host("b", off, VerbNone), "big", "rack")}, []Action{{Host: "b", Do: TurnOn}}},
		{"power budget", []View{in(host("a", booting, TurnOn), "small", "rack"), in(host("b", off, VerbNone), "small", "rack")}, []Action{{Host: "b", Do: TurnOn}}},
		{"power budget", []View{in(silent, "small", "rack"), in(host("b", off, VerbNone), "small", "rack")}, []Action{{Host: "b", Do: TurnOn}}},
		{"refused a moment ago", []View{in(refused, "big", ""), in(host("b", off, VerbNone), "big", "")}, []Action{{Host: "b", Do: TurnOn}}},
		{"stand by", []View{in(host("a", serving, VerbNone), "big", ""), host("b", serving, VerbNone)}, []Action{{Host: "a", Do: Cordon}}},
		{"boot at once", []View{host("a", booting, TurnOn), host("b", off, VerbNone), host("c", off, VerbNone)}, []Action{{Host: "b", Do: TurnOn}, {Host: "c", Do: TurnOn}}},
		{"drain at once", []View{host("a", draining, Cordon), host("b", serving, VerbNone)}, []Action{{Host: "b", Do: Cordon}}},
		{"can be called back", []View{host("a", draining, Cordon), host("b", off, VerbNone)}, []Action{{Host: "b", Do: TurnOn}}},
		{"may be", []View{host("a", serving, VerbNone), host("b", off, VerbNone)}, []Action{{Host: "b", Do: TurnOn}}},
		{"powered on within", []View{host("a", off, VerbNone), host("b", off, VerbNone)}, []Action{{Host: "a", Do: TurnOn}, {Host: "b", Do: TurnOn}}},
		{"powered off within", []View{host("a", booting, TurnOn), host("b", booting, TurnOn)}, []Action{{Host: "a", Do: SoftOff}, {Host: "b", Do: SoftOff}}},
		{"second action", []View{host("a", off, VerbNone)}, []Action{{Host: "a", Do: TurnOn}, {Host: "a", Do: TurnOn}}},
		{"no such host", nil, []Action{{Host: "a", Do: TurnOn}}},
		{"in the snapshot twice", []View{host("a", off, VerbNone), host("a", off, VerbNone)}, nil},
	} {
		t.Run(tt.why, func(t *testing.T) {
			l := testLimits()
			l.Classes = map[string]Class{"big": {BootWatts: 600, RunWatts: 500, Standby: 1}, "small": {BootWatts: 600, RunWatts: 100}}
			l.Budgets = map[string]float64{"rack": 1000}
			switch tt.why {
			case "may be":
				l.Max = 1
			case "powered on within", "powered off within":
				l.Stagger = 10 * time.Second
			}
			err := Check(t0, 0, Snapshot{At: t0, Hosts: tt.hosts}, tt.actions, l)
			if !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), tt.why) {
				t.Errorf("got %v, want an unsafe %q", err, tt.why)
			}
		})
	}
}
