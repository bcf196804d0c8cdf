package pool

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// Which host, of several that would do? One list of rules says it for those
// that are powered on, another for those that leave. The first rule that tells
// two hosts apart decides between them, and is named in the action's reason.
//
// Before any rule comes what a host is for. Hosts that are leaving and can be
// called back are taken before cold ones, because they are warm. Work that
// waits is given a host that it fits; a class that stands by, one of its own.
//
// Of the rules themselves, price comes before spread. In a pool of one class,
// where all cost the same, it decides nothing, and what remains is how racks
// want it: spread, efficiency, wear. In a pool of several, what a class costs
// is the reason for having several: the cheapest that fits is taken, and the
// next cheapest when that one is used up or its provider has none to give.

// rule is one reason to take a host before another.
type rule struct {
	name string
	// cmp is negative if a is to be taken before b.
	cmp func(a, b *host) int
	// show says what of a host decides, in a few words; empty to say nothing.
	show func(h *host) string
}

// onRules say which cold host to power on.
var onRules = []rule{
	{"health", func(a, b *host) int { return cmp.Compare(a.failed, b.failed) },
		func(h *host) string { return plural(h.failed, "failed boot") }},
	{"cost", func(a, b *host) int { return cmp.Compare(a.kind.Cost, b.kind.Cost) }, showCost},
	{"certainty", func(a, b *host) int { return compareBool(a.kind.Spot, b.kind.Spot) }, showSpot},
	{"spread", crowding, showLevel},
	{"efficiency", func(a, b *host) int { return cmp.Compare(a.efficiency, b.efficiency) }, showEfficiency},
	{"wear", func(a, b *host) int { return cmp.Compare(a.cycles, b.cycles) },
		func(h *host) string { return plural(h.cycles, "power-on") + " today" }},
	{"ID", func(a, b *host) int { return cmp.Compare(a.index, b.index) }, nil},
}

// offRules say which host in service is to leave.
var offRules = []rule{
	{"work", func(a, b *host) int { return compareBool(a.loaded(), b.loaded()) },
		func(h *host) string { return plural(len(h.Node.Work), "allocation") }},
	{"use", func(a, b *host) int { return compareBool(a.awaited, b.awaited) },
		func(h *host) string {
			if h.awaited {
				return "fits what waits"
			}
			return "does not fit what waits"
		}},
	{"GPU-hours lost", func(a, b *host) int { return cmp.Compare(a.lost, b.lost) },
		func(h *host) string { return fmt.Sprintf("%.1f", h.lost) }},
	{"GPUs busy", func(a, b *host) int { return cmp.Compare(a.GPUsBusy, b.GPUsBusy) },
		func(h *host) string { return fmt.Sprint(h.GPUsBusy) }},
	{"cost", func(a, b *host) int { return cmp.Compare(b.kind.Cost, a.kind.Cost) }, showCost},
	{"certainty", func(a, b *host) int { return compareBool(b.kind.Spot, a.kind.Spot) }, showSpot},
	{"spread", func(a, b *host) int { return crowding(b, a) }, showLevel},
	{"efficiency", func(a, b *host) int { return cmp.Compare(b.efficiency, a.efficiency) }, showEfficiency},
	{"ID", func(a, b *host) int { return cmp.Compare(b.index, a.index) }, nil},
}

// crowding compares domains. Of two hosts of one domain, it is the other rules
// that decide which of them comes first, and so has the lower level.
func crowding(a, b *host) int {
	if a.domain == b.domain {
		return 0
	}
	return cmp.Compare(a.level, b.level)
}

func showCost(h *host) string { return fmt.Sprintf("%g an hour", h.kind.Cost) }

func showSpot(h *host) string {
	if h.kind.Spot {
		return "spot"
	}
	return "not spot"
}

func showLevel(h *host) string {
	return strconv.Itoa(h.level) + " on in " + or(h.Domain, "no known domain")
}

func showEfficiency(h *host) string { return fmt.Sprintf("%.0f W per GPU", h.efficiency) }

// line puts hosts in line by all rules but spread, whose answer changes with
// each host that is taken. Where hosts are many, that is most of the work, and
// one line serves several choices from it.
func line(hosts []*host, rules []rule) {
	at := spreadOf(rules)
	before, after := rules[:at], rules[min(at+1, len(rules)):]
	slices.SortFunc(hosts, func(a, b *host) int {
		if c := compare(before, a, b); c != 0 {
			return c
		}
		return compare(after, a, b)
	})
	tier := 0
	for i, h := range hosts {
		if i > 0 && compare(before, hosts[i-1], h) != 0 {
			tier++
		}
		h.tier = tier
	}
}

// spread puts hosts, which are in line, in the order in which they are to be
// taken. step is what taking one adds to the hosts that are on in its domain.
//
// Instead of counting anew for each one taken, a host's level is what its
// domain will have come to when its turn comes: the hosts that are on there,
// and those of the domain that are before it in line. Of those that the rules
// before spread do not tell apart, they are taken level by level.
func spread(hosts []*host, rules []rule, step int) {
	for _, h := range hosts {
		h.domain.level = h.domain.on
	}
	for _, h := range hosts {
		h.level = h.domain.level
		h.domain.level += step
	}
	if spreadOf(rules) == len(rules) {
		return
	}
	room := make([]*host, len(hosts))
	for len(hosts) > 0 {
		n := 1
		for n < len(hosts) && hosts[n].tier == hosts[0].tier {
			n++
		}
		deal(hosts[:n], room, step)
		hosts = hosts[n:]
	}
}

// deal sorts hosts by level, upwards or downwards as step goes, and leaves those
// of one level as they are. Where levels are few, it counts rather than compares.
func deal(hosts, room []*host, step int) {
	lowest, highest := hosts[0].level*step, hosts[0].level*step
	for _, h := range hosts {
		lowest, highest = min(lowest, h.level*step), max(highest, h.level*step)
	}
	if len(hosts) == 1 || highest-lowest > 2*len(hosts) {
		slices.SortStableFunc(hosts, func(a, b *host) int { return cmp.Compare(a.level*step, b.level*step) })
		return
	}
	next := make([]int, highest-lowest+2) // where the next of a level goes
	for _, h := range hosts {
		next[h.level*step-lowest+1]++
	}
	for i := 1; i < len(next); i++ {
		next[i] += next[i-1]
	}
	for _, h := range hosts {
		at := &next[h.level*step-lowest]
		room[*at] = h
		*at++
	}
	copy(hosts, room)
}

// spreadOf is where spread is among the rules; behind them if nowhere.
func spreadOf(rules []rule) int {
	for i := range rules {
		if rules[i].name == "spread" {
			return i
		}
	}
	return len(rules)
}

func compare(rules []rule, a, b *host) int {
	for i := range rules {
		if c := rules[i].cmp(a, b); c != 0 {
			return c
		}
	}
	return 0
}

// because says which rule put h before the next in line.
func because(rules []rule, h, next *host) string {
	for _, r := range rules {
		switch {
		case r.cmp(h, next) == 0:
		case r.show == nil:
			return "before " + next.Status.ID + " by " + r.name
		default:
			return "before " + next.Status.ID + " by " + r.name + ": " + r.show(h) + " against " + r.show(next)
		}
	}
	return ""
}

// spare is how many GPUs no allocation holds.
func (h *host) spare() int { return h.Host.GPUs - h.GPUsBusy }

// loaded reports whether the host has work of any kind.
func (h *host) loaded() bool { return len(h.Node.Work) > 0 }

// gpuHoursLost is what would have to be computed again if a host's work was
// moved: batch work begins anew, services are started elsewhere first.
func gpuHoursLost(work []Alloc, now time.Time) float64 {
	const long = 30 * 24 * time.Hour // for work of which nobody knows when it began
	lost := 0.0
	for _, a := range work {
		if a.Type == service {
			continue
		}
		ran := long
		if !a.Since.IsZero() {
			ran = max(now.Sub(a.Since), 0)
		}
		lost += float64(a.GPUs) * ran.Hours()
	}
	return lost
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
