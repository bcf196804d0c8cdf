package pool

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkTick is one decision and its check over pools of different sizes:
// 60 % of the hosts work, 10 % are idle, 5 % boot, 5 % leave, the rest is off,
// in racks of 40 with power budgets, with work that waits. Allocations per host
// stay the same.
//
//	go test -run '^$' -bench Tick -benchmem ./internal/pool
func BenchmarkTick(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000} {
		for _, want := range []struct {
			name string
			of   float64
		}{{"grow", 0.95}, {"shrink", 0.2}, {"bring-up", 1}} {
			b.Run(fmt.Sprintf("hosts=%d/%s", n, want.name), func(b *testing.B) {
				s, l := bigPool(n, want.name == "bring-up")
				count := int(want.of * float64(n))
				b.ReportAllocs()
				for b.Loop() {
					d := Reconcile(t0, count, s, l)
					if err := Check(t0, count, s, d.Actions, l); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/tick")
			})
		}
	}
}

// bigPool is a pool of n hosts in the middle of its life, or before its first
// day, when all are off and may boot at once.
func bigPool(n int, dark bool) (Snapshot, Limits) {
	l := testLimits()
	l.Max, l.MaxBooting, l.MaxDraining, l.MinOn = n, n, n, time.Minute
	l.DrainWork, l.Agent = DrainServices, AgentRequired
	l.Classes = map[string]Class{
		"h100": {BootWatts: 6000, RunWatts: 10_000, Cost: 3},
		"b200": {BootWatts: 7000, RunWatts: 14_000, Cost: 5, Standby: 2},
		"spot": {BootWatts: 6000, RunWatts: 10_000, Cost: 2, Spot: true},
	}
	l.Budgets = map[string]float64{}
	classes := []string{"h100", "b200", "spot"}
	s := Snapshot{At: t0, Asks: []Ask{{GPUs: 8, Count: 20}, {Classes: []string{"b200"}, GPUs: 4, Count: 9}}}
	for i := range n {
		rack := fmt.Sprintf("rack-%03d", i/40)
		l.Budgets[rack] = 450_000
		v := View{Host: Host{ID: fmt.Sprintf("gpu-%05d", i), GPUs: 8, Class: classes[i%3], Domain: rack}}
		v.NodeAt, v.PowerAt, v.AgentAt = t0.Add(-time.Second), t0.Add(-time.Second), t0.Add(-time.Second)
		v.Intent = Intent{Verb: Enable, At: t0.Add(-2 * time.Hour), SettledAt: t0.Add(-2 * time.Hour)}
		v.OnAt, v.Cycles, v.CyclesOn = v.Intent.At, i%4, t0.Format(time.DateOnly)
		v.Power, v.Node = PowerOn, Node{ID: v.Host.ID, Status: NodeReady, Eligible: true, GPUs: 8}
		v.Agent.Status = AgentPassing
		kind := i % 20
		if dark {
			kind = 19
		}
		switch {
		case kind < 12:
			for j := range 4 {
				v.Node.Work = append(v.Node.Work, Alloc{ID: fmt.Sprintf("%s-%d", v.Host.ID, j), Job: "serve", Type: []string{"service", "batch"}[i%2], GPUs: 2, Since: t0.Add(-time.Hour)})
			}
		case kind < 14:
		case kind < 15:
			v.Intent = Intent{Verb: TurnOn, At: t0.Add(-time.Minute), SettledAt: t0.Add(-time.Minute), Ledger: v.Ledger}
			v.Node, v.Agent = Node{Status: NodeDown}, Agent{}
		case kind < 16:
			v.Intent = Intent{Verb: Drain, At: t0.Add(-time.Minute), SettledAt: t0.Add(-time.Minute), Ledger: v.Ledger}
			v.Node.Eligible, v.Node.Mark = false, MarkOurs
		default:
			v.Intent = Intent{Verb: SoftOff, At: t0.Add(-time.Hour), SettledAt: t0.Add(-time.Hour), Ledger: v.Ledger}
			v.Power, v.Node, v.Agent = PowerOff, Node{Status: NodeDown, Mark: MarkOurs}, Agent{}
		}
		s.Hosts = append(s.Hosts, v)
	}
	return s, l
}
