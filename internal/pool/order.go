package pool

import (
	"cmp"
	"fmt"
	"slices"
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
	return fmt.Sprintf("%d on in %s", h.level, or(h.Domain, "no known domain"))
}

func showEfficiency(h *host) string { return fmt.Sprintf("%.0f W per GPU", h.efficiency) }

// sorted puts hosts in the order in which they are to be taken. on is how many
// hosts of each domain are on; step is what taking one adds to that.
//
// The spread of those to be taken changes with each one taken. Instead of
// counting anew for each, a host's level is what its domain will have come to
// when its turn comes: the hosts that are on there, and those of the domain
// that the other rules put before it.
func sorted(hosts []*host, rules []rule, on map[string]int, step int) []*host {
	for _, h := range hosts {
		h.level = 0
	}
	by := func(a, b *host) int { return compare(rules, a, b) }
	slices.SortFunc(hosts, by)
	seen := make(map[string]int, len(on))
	for _, h := range hosts {
		h.level = on[h.Domain] + step*seen[h.Domain]
		seen[h.Domain]++
	}
	slices.SortFunc(hosts, by)
	return hosts
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
			return fmt.Sprintf("before %s by %s", next.Status.ID, r.name)
		default:
			return fmt.Sprintf("before %s by %s: %s against %s", next.Status.ID, r.name, r.show(h), r.show(next))
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
