package htmlreport

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/gpupool/gpupool/internal/sim"
)

// Names of policies that the report treats apart: ours and the best of the
// simple ones are shown side by side unless the reader asks for others.
const (
	ours   = "predictive"
	simple = "tracking-queue"
	fixed  = "static-" // how policies begin that hold one number of replicas
)

// verdict is the answer that the report gives before all figures.
type verdict struct {
	Before, Who, After string   // the headline; Who is the policy that it is about, or empty
	Says               []string // sentences
	Best               int      // index into the policies; -1 where none keeps the goal
}

// headline is the headline as text.
func (v verdict) headline() string { return v.Before + v.Who + v.After }

// meets tells whether a policy was on time as often as asked.
func meets(r *sim.Report, p sim.PolicyReport) bool { return p.Attainment >= r.SLO }

// ranked is the policies' indices, those that keep the goal first, each group
// from cheap to dear.
func ranked(r *sim.Report) []int {
	order := make([]int, len(r.Policies))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		p, q := r.Policies[a], r.Policies[b]
		if pm, qm := meets(r, p), meets(r, q); pm != qm {
			if pm {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(p.Cost, q.Cost), cmp.Compare(p.GPUHours, q.GPUHours))
	})
	return order
}

// judge says which policy is the cheapest that keeps the goal and by how much,
// or that none does.
func judge(r *sim.Report) verdict {
	order := ranked(r)
	kept := 0
	for _, p := range r.Policies {
		if meets(r, p) {
			kept++
		}
	}
	goal := fmt.Sprintf("%s of requests within %s", percentShort(r.SLO), spoken(r.SLOWaitS))
	if kept == 0 {
		return noneKeeps(r, goal)
	}
	best := r.Policies[order[0]]
	v := verdict{Best: order[0], Who: best.Name}
	costs := fmt.Sprintf("It costs %s in the %s that are scored", amount(best.Cost), scored(r))
	switch {
	case len(r.Policies) == 1:
		v.After = " keeps " + goal
		v.say("%s; no other policy was tried beside it.", costs)
	case kept == 1:
		v.Before, v.After = "Only ", " keeps "+goal
		v.say("%s. The other %s late too often, so that what they cost does not compare.", costs,
			plural(len(r.Policies)-1, "policy is", "policies are"))
	case tied(best, r.Policies[order[1]]):
		v.After = fmt.Sprintf(" and %s keep %s at the same cost", r.Policies[order[1]].Name, goal)
		v.say("%s.", strings.Replace(costs, "It costs", "That is", 1))
	default:
		v.After = " is the cheapest that keeps " + goal
		v.say("%s: %s.", costs, list(comparisons(r, order[:kept])))
	}
	if strings.HasPrefix(best.Name, fixed) && len(order) > 1 {
		v.say("Nothing that scales keeps the goal for less: on this demand, with a start of %s, scaling does not pay.", spoken(r.LeadS))
	}
	if r.Bound.GPUHours > 0 && best.CostRatio > 0 {
		v.say("With the future known it would take at least %s GPU-hours; %s takes %.2f times that.", amount(r.Bound.GPUHours), best.Name, best.CostRatio)
	}
	if best.WorstDay < r.SLO {
		v.say("On its worst day only %s were on time.", percent(best.WorstDay))
	}
	v.beside(r, order, kept)
	return v
}

func (v *verdict) say(format string, args ...any) {
	v.Says = append(v.Says, fmt.Sprintf(format, args...))
}

// beside says what the winner's praise must not hide: where our own policy
// ended, who missed narrowly for less, and that those that miss do not compare.
func (v *verdict) beside(r *sim.Report, order []int, kept int) {
	best := r.Policies[order[0]]
	narrow := -1
	for _, i := range order[kept:] {
		if p := r.Policies[i]; p.Name != ours && p.Cost < best.Cost && 1-p.Attainment <= nearMiss*(1-r.SLO) {
			narrow = i
			break
		}
	}
	if i := slices.IndexFunc(r.Policies, func(p sim.PolicyReport) bool { return p.Name == ours }); i >= 0 && i != order[0] {
		v.Says = append(v.Says, aboutOurs(r.Policies[i], best, meets(r, r.Policies[i])))
	}
	if narrow >= 0 {
		p := r.Policies[narrow]
		v.say("%s costs %s and misses narrowly, with %s on time.", p.Name, lessThan(p, best.Cost), percent(p.Attainment))
	}
	if missed := len(order) - kept; missed > 0 && kept > 1 {
		v.say("%s does not compare.", capital(plural(missed, "policy misses the goal: what it costs", "policies miss the goal: what they cost")))
	}
}

// nearMiss is how many times the permitted share of late requests still counts
// as missing the goal narrowly.
const nearMiss = 1.25

// tied tells whether two costs are within half a per cent.
func tied(p, q sim.PolicyReport) bool { return p.Cost >= q.Cost*0.995 }

// comparisons says how much less the cheapest costs than the next, and than
// capacity that never changes.
func comparisons(r *sim.Report, kept []int) []string {
	best, next := r.Policies[kept[0]], r.Policies[kept[1]]
	out := []string{lessThan(best, next.Cost) + " than the next, " + next.Name}
	for _, i := range kept[2:] {
		if p := r.Policies[i]; p.Name == "static-peak" && !strings.HasPrefix(best.Name, fixed) {
			out[0] += ","
			out = append(out, lessThan(best, p.Cost)+" than "+p.Name)
		}
	}
	return out
}

func lessThan(p sim.PolicyReport, cost float64) string {
	return share(1-p.Cost/max(cost, 1e-12)) + " less"
}

// share is a difference in whole per cent, or tenths where it is small.
func share(v float64) string {
	if v < 0.1 {
		return fmt.Sprintf("%.1f%%", 100*v)
	}
	return fmt.Sprintf("%.0f%%", 100*v)
}

func aboutOurs(p, best sim.PolicyReport, kept bool) string {
	switch {
	case !kept:
		return fmt.Sprintf("%s misses the goal, with %s on time.", p.Name, percent(p.Attainment))
	case best.Cost > 0 && p.Cost/best.Cost-1 >= 0.0005:
		return fmt.Sprintf("%s keeps it too, and costs %s more.", p.Name, share(p.Cost/best.Cost-1))
	}
	return fmt.Sprintf("%s keeps it too, at the same cost.", p.Name)
}

func noneKeeps(r *sim.Report, goal string) verdict {
	v := verdict{Best: -1, Before: fmt.Sprintf("No policy keeps %s on this demand", goal)}
	if len(r.Policies) == 1 {
		v.Before, v.Who, v.After = "", r.Policies[0].Name, " does not keep "+goal
	}
	near := slices.MaxFunc(r.Policies, func(p, q sim.PolicyReport) int {
		return cmp.Or(cmp.Compare(p.Attainment, q.Attainment), cmp.Compare(q.Cost, p.Cost))
	})
	if len(r.Policies) > 1 {
		v.say("%s comes closest, with %s on time at a cost of %s.", near.Name, percent(near.Attainment), amount(near.Cost))
	} else {
		v.say("With it %s were on time, at a cost of %s.", percent(near.Attainment), amount(near.Cost))
	}
	v.say("The costs below do not compare, because nobody delivered what was asked. What helps is a start of less than %s, a higher floor, more replicas at most, or a longer permitted wait.", spoken(r.LeadS))
	return v
}

// scored is the length of what counts.
func scored(r *sim.Report) string { return days(max(r.Trace.Days-r.WarmupS/86400, 0)) }

func plural(n int, one, many string) string {
	if n == 1 {
		return "one " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
