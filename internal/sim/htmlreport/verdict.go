package htmlreport

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/gpupool/gpupool/internal/sim"
)

// The two policies that are shown side by side unless the reader asks for
// others: ours, and the best of the simple ones.
const (
	ours   = "predictive"
	simple = "tracking-queue"
)

// verdict is the answer that the report gives before all figures.
type verdict struct {
	Headline string
	Says     []string // sentences
	Best     int      // index into the policies; -1 where none keeps the goal
}

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
	goal := fmt.Sprintf("%s of requests within %s", percentShort(r.SLO), seconds(r.SLOWaitS))
	if kept == 0 {
		return noneKeeps(r, goal)
	}
	best := r.Policies[order[0]]
	v := verdict{Best: order[0]}
	switch {
	case len(r.Policies) == 1:
		v.Headline = fmt.Sprintf("%s keeps %s", best.Name, goal)
		v.Says = append(v.Says, fmt.Sprintf("It costs %s in the %s that are scored; no other policy was tried beside it.", amount(best.Cost), scored(r)))
	case kept == 1:
		v.Headline = fmt.Sprintf("Only %s keeps %s", best.Name, goal)
		v.Says = append(v.Says, fmt.Sprintf("It costs %s in the %s that are scored. The other %s late too often, so that what they cost does not compare.",
			amount(best.Cost), scored(r), plural(len(r.Policies)-1, "policy is", "policies are")))
	default:
		next := r.Policies[order[1]]
		v.Headline = fmt.Sprintf("%s is the cheapest that keeps %s", best.Name, goal)
		if less := 1 - best.Cost/next.Cost; less < 0.005 {
			v.Headline = fmt.Sprintf("%s and %s keep %s at the same cost", best.Name, next.Name, goal)
		}
		v.Says = append(v.Says, fmt.Sprintf("It costs %s in the %s that are scored: %s.", amount(best.Cost), scored(r), list(comparisons(r, order, kept))))
	}
	if r.Bound.GPUHours > 0 && best.CostRatio > 0 {
		v.Says = append(v.Says, fmt.Sprintf("With the future known it would take at least %s GPU-hours; %s takes %.2f times that.",
			amount(r.Bound.GPUHours), best.Name, best.CostRatio))
	}
	if best.WorstDay < r.SLO {
		v.Says = append(v.Says, fmt.Sprintf("On its worst day it kept only %s.", percent(best.WorstDay)))
	}
	if i := slices.IndexFunc(r.Policies, func(p sim.PolicyReport) bool { return p.Name == ours }); i >= 0 && i != order[0] {
		v.Says = append(v.Says, aboutOurs(r.Policies[i], best, meets(r, r.Policies[i])))
	}
	if missed := len(r.Policies) - kept; missed > 0 && kept > 1 {
		v.Says = append(v.Says, fmt.Sprintf("%s the goal: what they cost does not compare.", capital(plural(missed, "policy misses", "policies miss"))))
	}
	return v
}

// comparisons says how much less the cheapest costs than the next, and than
// capacity that never changes.
func comparisons(r *sim.Report, order []int, kept int) []string {
	best, next := r.Policies[order[0]], r.Policies[order[1]]
	out := []string{less(best, next) + ", the next"}
	if best.Cost >= next.Cost*0.995 {
		out[0] = "as much as " + next.Name
	}
	for _, i := range order[2:kept] {
		if p := r.Policies[i]; p.Name == "static-peak" && !strings.HasPrefix(best.Name, "static-") {
			out = append(out, less(best, p)+", which never changes")
		}
	}
	return out
}

func less(p, than sim.PolicyReport) string {
	if than.Cost <= 0 {
		return "no less than " + than.Name
	}
	return fmt.Sprintf("%s less than %s", share(1-p.Cost/than.Cost), than.Name)
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
	v := verdict{Best: -1, Headline: fmt.Sprintf("No policy keeps %s on this demand", goal)}
	if len(r.Policies) == 1 {
		v.Headline = fmt.Sprintf("%s does not keep %s", r.Policies[0].Name, goal)
	}
	near := slices.MaxFunc(r.Policies, func(p, q sim.PolicyReport) int {
		return cmp.Or(cmp.Compare(p.Attainment, q.Attainment), cmp.Compare(q.Cost, p.Cost))
	})
	if len(r.Policies) > 1 {
		v.Says = append(v.Says, fmt.Sprintf("%s comes closest, with %s on time for %s.", near.Name, percent(near.Attainment), amount(near.Cost)))
	} else {
		v.Says = append(v.Says, fmt.Sprintf("With it %s were on time, for %s.", percent(near.Attainment), amount(near.Cost)))
	}
	v.Says = append(v.Says, fmt.Sprintf("Costs below do not compare, because nobody delivered what was asked. A shorter start than %s, a higher floor, more replicas at most or a longer permitted wait would help.", seconds(r.LeadS)))
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
