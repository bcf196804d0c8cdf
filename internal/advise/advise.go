// Package advise finds what a pool's past says about its settings: where it was
// idle, where it was too small, where it turned to and fro, and where its lead
// time is not the real one. Each finding has its figures and the change to
// make.
//
// [Advise] is a pure function of a [History], which a decision log gives.
// [Hold] asks the simulator whether a fixed pool would have been cheaper. Both
// say nothing where the history is too short or does not show it.
//
// What a replica is too big or too small for, by its GPUs' memory and busy
// ratio, is not found here: that needs a history of the agents' samples, and
// none is kept.
package advise

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/plan"
	"github.com/gpupool/gpupool/internal/record"
)

// Decision is what one decision saw and wanted. What was then really wanted, the
// next one's Before tells: in shadow mode, in a dry run and while the autoscaler
// cools down it is not what was decided.
type Decision struct {
	At       time.Time
	Before   int // replicas wanted until then
	Count    int // replicas wanted from then on
	Starting int // of Before, those that did not serve yet
	Rule     plan.Rule
	Demand   float64 // units needed, running and queued; NaN where nothing was known
	Rules    plan.Rules
}

// FromRecord is a decision as a decision log has it.
func FromRecord(r record.Read) Decision {
	in := r.Input
	d := Decision{At: in.Now, Before: in.Count, Count: r.Decision.Count, Starting: len(in.Starting), Rule: r.Decision.Rule,
		Demand: math.NaN(), Rules: r.Rules}
	stale := r.Rules.StaleAfter
	if stale == 0 {
		stale = staleAfter
	}
	if last, ok := in.Demand.Last(); ok && in.Now.Sub(last.At) <= stale {
		d.Demand = last.Value
	}
	return d
}

// History is the decisions of one pool, ascending in time.
type History []Decision

// Kind says what a finding is about.
type Kind string

// The kinds of findings.
const (
	Overload  Kind = "overload"     // the pool was at its maximum and work waited
	Idle      Kind = "idle"         // replicas were kept that nothing needed
	Cycling   Kind = "cycling"      // replicas were let go that were soon wanted again
	WrongLead Kind = "lead time"    // starts take longer, or shorter, than the rules say
	Blind     Kind = "blind"        // decisions were made without samples
	DoNot     Kind = "do not scale" // a pool of a fixed size is cheaper
	Size      Kind = "size"         // a task's GPUs are too large for it, or too small
)

// Finding is one thing that the past says.
type Finding struct {
	Kind    Kind     `json:"kind"`
	What    string   `json:"what"`    // one sentence, with the figures
	Figures []Figure `json:"figures"` // the same as numbers
	Change  string   `json:"change"`  // which key of which file, and to what
}

// Figure is one number of a finding.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit,omitempty"`
}

// From when on something is a finding.
const (
	staleAfter   = 5 * time.Minute // default of the rules
	wear         = 10 * time.Minute
	leastHold    = 15 * time.Minute // default of scale_in_after, if lead_time is not longer
	longestGap   = 10 * time.Minute // between decisions, beyond which nothing is known
	leastHistory = time.Hour
	overloadLong = time.Minute      // shorter ones are one unlucky sample
	overloadJoin = 10 * time.Minute // two as close are one
	idleShare    = 0.4              // of what was paid for
	quietShare   = 0.5              // busy share of an hour of the day that counts as quiet
	cyclesADay   = 1.0              // regretted
	leadWrong    = 0.25             // of the configured one
	leadStarts   = 3                // to be measured
	blindShare   = 0.02             // of the time
)

// In which file settings are.
const (
	strategyBlock = "the check's strategy block of the policy"
	bothBlocks    = "the check's strategy block and in the scaling block of the policy"
)

// slot is the time from one decision to the next.
type slot struct {
	Decision
	count int // replicas that were really wanted in it
	long  time.Duration
}

// need is the replicas that the demand calls for, not rounded.
func (s slot) need() float64 { return s.Demand / perReplica(s.Rules) }

func (s slot) hours() float64 { return s.long.Hours() }

func perReplica(r plan.Rules) float64 {
	u := r.Units
	if r.Utilization > 0 {
		u *= r.Utilization
	}
	return u
}

// slots cuts the history into the times that its decisions were in force.
// Beyond longestGap without a decision nothing is known.
func (h History) slots() []slot {
	var out []slot
	for i, d := range h {
		if i+1 < len(h) {
			if long := h[i+1].At.Sub(d.At); long > 0 {
				out = append(out, slot{d, h[i+1].Before, min(long, longestGap)})
			}
		}
	}
	return out
}

// Span is the time that the history covers, and how much of it is known.
func (h History) Span() (span, known time.Duration) {
	if len(h) == 0 {
		return 0, 0
	}
	for _, s := range h.slots() {
		known += s.long
	}
	return h[len(h)-1].At.Sub(h[0].At), known
}

// Advise returns the findings, those that hurt work first, and sentences that
// say what the history does not show.
func Advise(h History) (found []Finding, notes []string) {
	span, known := h.Span()
	if known < leastHistory {
		return nil, []string{fmt.Sprintf("the log covers %s: too little to say anything; %s is the least", short(known), short(leastHistory))}
	}
	if span-known > span/20 {
		notes = append(notes, fmt.Sprintf("for %s of %s there are no decisions", short(span-known), short(span)))
	}
	slots := h.slots()
	if n := ignored(slots); n > len(slots)/100 {
		notes = append(notes, fmt.Sprintf("%d of %d decisions were not followed (shadow mode, a dry run, or a cooldown): the findings are of what was done", n, len(slots)))
	}
	for _, find := range []func([]slot) (Finding, bool){overload, blind, idle, cycling} {
		if f, ok := find(slots); ok {
			found = append(found, f)
		}
	}
	f, ok, note := leadTime(h)
	if ok {
		found = append(found, f)
	}
	if note != "" {
		notes = append(notes, note)
	}
	return found, notes
}

// ignored is the number of decisions whose count was not the next one's.
func ignored(slots []slot) (n int) {
	for _, s := range slots {
		if s.Count != s.count {
			n++
		}
	}
	return n
}

// overload is the times when all that is allowed was wanted and did not do.
func overload(slots []slot) (Finding, bool) {
	type event struct {
		from, to time.Time
		long     time.Duration
		worst    float64 // units
	}
	var events []event
	most, limit := 0.0, slots[len(slots)-1].Rules
	for _, s := range slots {
		if s.count < s.Rules.Max || !(s.need() > float64(s.Rules.Max)) {
			continue
		}
		if n := len(events); n == 0 || s.At.Sub(events[n-1].to) > overloadJoin {
			events = append(events, event{from: s.At})
		}
		e := &events[len(events)-1]
		e.to, e.long, e.worst = s.At.Add(s.long), e.long+s.long, max(e.worst, s.Demand)
	}
	events = slices.DeleteFunc(events, func(e event) bool { return e.long < overloadLong })
	if len(events) == 0 {
		return Finding{}, false
	}
	var all time.Duration
	longest := events[0]
	for _, e := range events {
		all += e.long
		most = max(most, e.worst)
		if e.long > longest.long {
			longest = e
		}
	}
	enough := int(math.Ceil(most/perReplica(limit) - 1e-9))
	return Finding{
		Kind: Overload,
		What: fmt.Sprintf("%s, %s in all, more was asked for than the %d allowed can serve: at worst %s units, %s more than fit; the longest began %s and took %s",
			times(len(events)), short(all), limit.Max, number(most), number(most-float64(limit.Max)*perReplica(limit)), clock(longest.from), short(longest.long)),
		Figures: []Figure{{"events", float64(len(events)), ""}, {"time", all.Seconds(), "s"}, {"worst_demand", most, "units"}, {"max_needed", float64(enough), "replicas"}},
		Change:  fmt.Sprintf("max = %d in %s, if there are as many; now it is %d", max(enough, limit.Max+1), bothBlocks, limit.Max),
	}, true
}

// blind is the time that was decided without samples.
func blind(slots []slot) (Finding, bool) {
	var held, all time.Duration
	var longest, run time.Duration
	for _, s := range slots {
		all += s.long
		if s.Rule == plan.RuleHold {
			held += s.long
			run += s.long
			longest = max(longest, run)
		} else {
			run = 0
		}
	}
	share := held.Seconds() / all.Seconds()
	if share < blindShare {
		return Finding{}, false
	}
	return Finding{
		Kind:    Blind,
		What:    fmt.Sprintf("for %s of the time, %s at most in a row, samples were missing or too old, and the count was only held", percent(share), short(longest)),
		Figures: []Figure{{"held_share", share, ""}, {"held", held.Seconds(), "s"}, {"longest", longest.Seconds(), "s"}},
		Change:  "look why the check's source and query gave nothing then; if its samples only come late, stale_after in " + strategyBlock,
	}, true
}

// idle is what was paid for and not needed, when, and by which rule.
func idle(slots []slot) (Finding, bool) {
	paid, unneeded, atMin := 0.0, 0.0, 0.0 // GPU-hours, or slot-hours
	var atMinNeed []float64
	var day [24]struct{ paid, busy float64 }
	for _, s := range slots {
		if math.IsNaN(s.Demand) {
			continue
		}
		// A replica is needed whole.
		extra := max(float64(s.count)-math.Ceil(s.need()-1e-9), 0) * s.Rules.Units * s.hours()
		had := float64(s.count) * s.Rules.Units * s.hours()
		paid += had
		unneeded += extra
		if s.count == s.Rules.Min {
			atMin += extra
			atMinNeed = append(atMinNeed, s.need())
		}
		hour := &day[s.At.UTC().Hour()]
		hour.paid += had
		hour.busy += min(s.Demand, float64(s.count)*s.Rules.Units) * s.hours()
	}
	if paid == 0 || unneeded/paid < idleShare {
		return Finding{}, false
	}
	busy := func(h int) float64 {
		if day[h].paid == 0 {
			return 1
		}
		return day[h].busy / day[h].paid
	}
	f := Finding{
		Kind:    Idle,
		What:    fmt.Sprintf("%s of %s unit-hours paid for were in replicas that nothing needed (%s)", number(unneeded), number(paid), percent(unneeded/paid)),
		Figures: []Figure{{"paid", paid, "unit-hours"}, {"unneeded", unneeded, "unit-hours"}, {"unneeded_share", unneeded / paid, ""}, {"unneeded_at_min", atMin, "unit-hours"}},
	}
	if from, long := quiet(busy); long > 0 && long < 24 {
		sum, all := 0.0, 0.0
		for i := range long {
			sum += day[(from+i)%24].busy
			all += day[(from+i)%24].paid
		}
		f.What += fmt.Sprintf("; from %02d:00 to %02d:00 UTC %s of what was on was busy", from, (from+long)%24, percent(sum/all))
		f.Figures = append(f.Figures, Figure{"quiet_from", float64(from), "h UTC"}, Figure{"quiet_hours", float64(long), "h"})
	}
	r := slots[len(slots)-1].Rules
	if atMin > unneeded/2 {
		slices.Sort(atMinNeed)
		enough := int(math.Ceil(rank(atMinNeed, 0.5) - 1e-9))
		f.Change = fmt.Sprintf("min = %d in %s, which was enough for half of the time spent at min; now it is %d, and %s of what was not needed was kept by it",
			min(enough, max(r.Min-1, 0)), bothBlocks, r.Min, percent(atMin/unneeded))
		return f, true
	}
	f.Change = fmt.Sprintf("a scale_in_after shorter than %s in %s, if starts may be more; gpupool tune with this log finds how much it saves", short(hold(r)), strategyBlock)
	return f, true
}

// quiet is the longest run of hours of the day, around midnight too, of which
// less than quietShare was busy.
func quiet(busy func(hour int) float64) (from, long int) {
	for start := range 24 {
		n := 0
		for n < 24 && busy((start+n)%24) < quietShare {
			n++
		}
		if n > long {
			from, long = start, n
		}
	}
	return from, long
}

// hold is how long surplus is kept.
func hold(r plan.Rules) time.Duration {
	if r.ScaleInAfter > 0 {
		return r.ScaleInAfter
	}
	return max(r.Lead, leastHold)
}

// cycling is the replicas that were let go and wanted again so soon that
// keeping them would have been cheaper than the start: the time that a start
// takes, and its wear, are what keeping must not exceed.
func cycling(slots []slot) (Finding, bool) {
	var gone []time.Time // when each replica that is off was let go, newest last
	starts, long := 0, time.Duration(0)
	var gaps []float64 // s, of those regretted
	saved := 0.0       // replica-hours
	for _, s := range slots {
		long += s.long
		for range max(s.Before-s.count, 0) {
			gone = append(gone, s.At)
		}
		for range max(s.count-s.Before, 0) {
			starts++
			if len(gone) == 0 {
				continue
			}
			gap := s.At.Sub(gone[len(gone)-1])
			gone = gone[:len(gone)-1]
			if price := s.Rules.Lead + orElse(s.Rules.Wear, wear); gap < price {
				gaps = append(gaps, gap.Seconds())
				saved += (price - gap).Hours()
			}
		}
	}
	days := long.Hours() / 24
	if float64(len(gaps)) < cyclesADay*days || len(gaps) < 2 {
		return Finding{}, false
	}
	slices.Sort(gaps)
	r := slots[len(slots)-1].Rules
	typical := time.Duration(rank(gaps, 0.9) * float64(time.Second))
	longer := (hold(r) + typical + time.Minute - 1).Truncate(time.Minute)
	return Finding{
		Kind: Cycling,
		What: fmt.Sprintf("%s starts a day, of which %s a day were of replicas let go so shortly before (nine in ten within %s) that keeping them was cheaper than the start",
			number(float64(starts)/days), number(float64(len(gaps))/days), short(typical)),
		Figures: []Figure{{"starts_a_day", float64(starts) / days, ""}, {"regretted_a_day", float64(len(gaps)) / days, ""},
			{"gap_p90", typical.Seconds(), "s"}, {"saved", saved, "replica-hours"}},
		Change: fmt.Sprintf("scale_in_after = %q in %s; now it is %s", short(longer), strategyBlock, short(hold(r))),
	}, true
}

// leadTime compares the time from wanting a replica to its service with the
// configured one, where the log has what is starting.
func leadTime(h History) (f Finding, ok bool, note string) {
	type rise struct {
		at    time.Time
		count int
	}
	var open []rise
	var took []float64 // s
	shown := false
	for i, d := range h {
		shown = shown || d.Starting > 0
		if i+1 < len(h) {
			d.Count = h[i+1].Before
		}
		serving := d.Before - d.Starting
		for len(open) > 0 && open[0].count <= serving {
			took = append(took, d.At.Sub(open[0].at).Seconds())
			open = open[1:]
		}
		// What is not wanted any more never came: neither measures a start.
		for len(open) > 0 && open[len(open)-1].count > d.Count {
			open = open[:len(open)-1]
		}
		for c := d.Before + 1; c <= d.Count; c++ {
			open = append(open, rise{d.At, c})
		}
	}
	switch {
	case !shown:
		return f, false, "the log does not show when replicas began to serve, so the lead time could not be measured"
	case len(took) < leadStarts:
		return f, false, fmt.Sprintf("%d starts are too few to measure the lead time by", len(took))
	}
	slices.Sort(took)
	r := h[len(h)-1].Rules
	said, p50, p95 := r.Lead.Seconds(), rank(took, 0.5), rank(took, 0.95)
	if math.Abs(p95-said) <= max(leadWrong*said, 60) {
		return f, false, ""
	}
	right := time.Duration(math.Ceil(p95/10)*10) * time.Second
	effect := "it starts replicas too late"
	if p95 < said {
		effect = "it starts replicas sooner than it must, and pays for them"
	}
	return Finding{
		Kind: WrongLead,
		What: fmt.Sprintf("from wanting a replica to its service it took %s (median of %d starts) to %s (95th percentile), and the strategy reckons with %s: %s",
			short(time.Duration(p50)*time.Second), len(took), short(time.Duration(p95)*time.Second), short(r.Lead), effect),
		Figures: []Figure{{"starts", float64(len(took)), ""}, {"lead_p50", p50, "s"}, {"lead_p95", p95, "s"}, {"lead_time", said, "s"}},
		Change:  fmt.Sprintf("lead_time = %q in %s; now it is %s", short(right), strategyBlock, short(r.Lead)),
	}, true, ""
}

// rank is the q-quantile of sorted values, by nearest rank.
func rank(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(min(int(math.Ceil(q*float64(len(sorted)))), len(sorted))-1, 0)]
}

func orElse(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', 3, 64) }

func percent(v float64) string { return fmt.Sprintf("%.0f%%", 100*v) }

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// short is a duration without zero parts.
func short(d time.Duration) string {
	s := d.Round(time.Second).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
