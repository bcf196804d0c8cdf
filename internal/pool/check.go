package pool

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// ErrUnsafe is what every broken law wraps.
var ErrUnsafe = errors.New("unsafe")

// Check states the safety laws once more, from what is seen rather than from
// how Reconcile came to its actions. It runs before anything is done, in the
// live loop, in the simulator and in the tests, and returns every law that the
// actions would break. An error means that nothing of them may be done.
func Check(now time.Time, want int, s Snapshot, actions []Action, l Limits) error {
	c := checker{now: now, l: l.Learn(s.Times), all: make([]seen, len(s.Hosts)), views: make(map[string]*seen, len(s.Hosts)), asks: s.Asks}
	for i := range s.Hosts {
		v := &s.Hosts[i]
		if _, twice := c.views[v.Host.ID]; twice {
			c.broken("host %s is in the snapshot twice", v.Host.ID)
		}
		p, _ := PhaseOf(v, now, c.l)
		c.all[i] = seen{View: v, phase: p}
		c.views[v.Host.ID] = &c.all[i]
	}
	c.each(actions)
	c.together(max(want, l.Min), actions)
	if slices.ContainsFunc(actions, func(a Action) bool { return a.Do == TurnOn }) {
		c.warmFirst(actions)
		c.budgets(actions)
		c.refused(actions)
	}
	return errors.Join(c.errs...)
}

type checker struct {
	now   time.Time
	l     Limits
	all   []seen
	views map[string]*seen // by ID
	asks  []Ask
	errs  []error
}

// seen is a host in its phase, and what is to be done to it.
type seen struct {
	*View
	phase Phase
	do    Verb
}

func (c *checker) broken(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf("%w: "+format, append([]any{ErrUnsafe}, args...)...))
}

// each checks the laws that concern one host at a time.
func (c *checker) each(actions []Action) {
	for _, a := range actions {
		v, known := c.views[a.Host]
		if !known {
			c.broken("%s: no such host", a)
			continue
		}
		if v.do != VerbNone {
			c.broken("%s: a second action on one host", a)
		}
		v.do = a.Do
		switch v.phase {
		case Unknown, Held:
			c.broken("%s: the host is %s", a, v.phase)
		}
		if v.Verb != VerbNone {
			if t := v.Intent.settled(c.l); !v.NodeAt.After(t) || !v.PowerAt.After(t) {
				c.broken("%s: not looked at since %s", a, v.Verb)
			}
		}
		if c.now.Sub(v.NodeAt) > c.l.StaleAfter {
			c.broken("%s: Nomad was last read %s ago", a, c.now.Sub(v.NodeAt))
		}
		c.one(a, v)
		c.word(a, v)
	}
}

// one checks the law of one verb.
func (c *checker) one(a Action, v *seen) {
	node := v.Node
	switch a.Do {
	case TurnOn:
		c.require(a, v.Power == PowerOff && c.now.Sub(v.PowerAt) <= c.l.StaleAfter, "its chassis was not read as off lately")
		c.require(a, v.phase != Quarantined, "it is in quarantine")
		c.require(a, c.l.CycleBudget == 0 || v.cyclesOn(date(c.now)) < c.l.CycleBudget, "its cycles of the day are used up")
		c.require(a, a.Ledger.OnAt.Equal(c.now) && a.Ledger.Cycles > 0, "it is not written down in its ledger")
	case Enable:
		c.require(a, node.Status == NodeReady, "its node is not ready")
		c.require(a, v.Verb != TurnOn || node.Index == 0 || node.Index > v.Intent.NodeIndex || v.overdue(c.now, c.l), "its node has not registered since the power-on")
		c.require(a, v.Verb != SoftOff && v.Verb != HardOff, "it is shutting down")
	case Cordon:
		c.require(a, v.phase == Ready || c.neverJoined(v), "it is not in service")
		c.require(a, v.OnAt.IsZero() || c.now.Sub(v.OnAt) >= c.l.MinOn || v.Said.leave() || c.neverJoined(v), "it has not been on for its least time")
		c.require(a, c.mayMove(v), "it has work")
	case Drain:
		c.require(a, !node.Eligible, "it is still eligible, so work may land on it")
		c.require(a, c.mayMove(v), "it has work")
	case SoftOff, HardOff:
		c.off(a, v)
	default:
		c.broken("%s: not a thing to do", a)
	}
	c.require(a, !v.Self || a.Do == TurnOn || a.Do == Enable, "the process that decides runs on it")
}

// mayMove reports whether every allocation on a host may be moved away.
func (c *checker) mayMove(v *seen) bool {
	for _, a := range v.Node.Work {
		byRule := c.l.DrainWork == DrainAll || c.l.DrainWork == DrainServices && a.Type == "service"
		if !byRule && v.Said.Word != WordDrain && v.Said.Word != WordOff {
			return false
		}
	}
	return true
}

// word: nothing is done against what an operator said of a host.
func (c *checker) word(a Action, v *seen) {
	against := false
	switch v.Said.Word {
	case WordHold:
		against = true
	case WordDrain:
		against = a.Do == TurnOn || a.Do == Enable || (a.Do == SoftOff || a.Do == HardOff) && v.phase == Draining
	case WordOff:
		against = a.Do == TurnOn || a.Do == Enable
	case WordOn:
		against = a.Do == Drain || a.Do == Cordon && !c.neverJoined(v) || a.Do == SoftOff && v.phase == Draining
	}
	if against {
		c.broken("%s: %s", a, v.Said)
	}
}

// off is the law that the project stands on: no host loses its power with
// work on it, inside Nomad or outside.
func (c *checker) off(a Action, v *seen) {
	node := v.Node
	c.require(a, len(node.Work) == 0, "it has work")
	c.require(a, !node.Eligible, "it is eligible, so work may land on it")
	c.require(a, !node.Draining, "its drain has not finished")
	began := v.Verb != Drain || !v.SettledAt.IsZero() && v.Err == "" || node.Index == 0 || node.Index > v.Intent.NodeIndex
	c.require(a, node.Mark == MarkOurs && began || v.Verb == SoftOff || v.Verb == HardOff || c.neverJoined(v), "no drain of ours has finished on it")
	c.require(a, v.Power != PowerUnknown && c.now.Sub(v.PowerAt) <= c.l.StaleAfter, "its power was not read lately")
	c.require(a, v.phase != Draining || v.OnAt.IsZero() || c.now.Sub(v.OnAt) >= c.l.MinOn || v.Said.leave(), "it has not been on for its least time")
	passing := v.Agent.Status == AgentPassing && c.now.Sub(v.AgentAt) <= c.l.StaleAfter
	c.require(a, !passing || v.Agent.Outside == 0 || c.l.Agent == AgentNone, "its GPUs are busy outside Nomad")
	if node.Status == NodeReady && c.l.Agent != AgentNone {
		c.require(a, passing || c.l.Agent == AgentOptional, "its agent does not say whether its GPUs are idle")
		c.require(a, c.l.Agent == AgentOptional || v.Agent.Blind == "", "its agent cannot tell whether its GPUs are idle")
	}
	c.require(a, a.Ledger.OffAt.Equal(c.now), "it is not written down in its ledger")
	if a.Do == HardOff {
		c.require(a, c.l.HardOff || v.FailedBoots > 0 && node.Status != NodeReady, "hard off is not allowed in this pool")
		c.require(a, v.Verb == SoftOff && !v.SettledAt.IsZero() || v.Verb == HardOff, "it was not asked to shut down before")
		c.require(a, !v.StoppedAt.After(v.OffAt), "somebody powered it on again, and it was not asked to shut down since")
		c.require(a, c.now.Sub(v.Intent.At) >= c.l.SoftOffTimeout, "it still has time to shut down by itself")
	}
}

// neverJoined reports whether nothing can run on a host because its client has
// not registered since the power-on, in the time that it has for it.
func (c *checker) neverJoined(v *seen) bool {
	if v.JoinedAt.After(v.OnAt) && v.Verb == TurnOn || v.Node.Status == NodeReady || v.Node.Status == NodeInit {
		return false
	}
	return v.Verb == TurnOn && !v.NoCapacity && c.now.Sub(v.Intent.At) >= c.l.bootTimeout(v.View) || v.Verb == Cordon && v.FailedBoots > 0
}

func (c *checker) require(a Action, ok bool, why string) {
	if !ok {
		c.broken("%s: %s", a, why)
	}
}

// tally is what a pool comes to, before and after the actions.
type tally struct {
	ready    int  // hosts in service before
	coming   int  // on their way there, in time, with those that are made eligible late
	booting  int  // of which the in-rush must be reckoned with
	draining int  // less those that go on, or are given back
	on, off  int  // power-ons; soft and hard offs
	surplus  int  // hosts taken out of service for want of demand
	out      int  // and, with them, those that operators want out
	called   bool // a host is powered on for want of capacity, not by a word

	lastOn, lastOff time.Time // before
}

// together checks the laws that concern the pool.
func (c *checker) together(floor int, actions []Action) {
	var t tally
	for i := range c.all {
		c.before(&t, &c.all[i])
	}
	for _, a := range actions {
		if v := c.views[a.Host]; v != nil {
			c.after(&t, a.Do, v)
		}
	}
	most := min(len(c.views), c.l.Max)
	if t.on > 0 && t.booting+t.on > c.l.MaxBooting {
		c.broken("%d hosts would boot at once, %d are allowed", t.booting+t.on, c.l.MaxBooting)
	}
	if t.surplus > 0 && t.draining+t.surplus > c.l.MaxDraining {
		c.broken("%d hosts would drain at once, %d are allowed", t.draining+t.surplus, c.l.MaxDraining)
	}
	if have := t.ready + t.coming + t.on - t.out; t.called && have > most {
		c.broken("%d hosts would be in service or on their way, %d may be", have, most)
	}
	if stay := t.ready - t.out; t.surplus > 0 && stay < min(floor, most) {
		c.broken("%d hosts would stay in service, %d are wanted", stay, floor)
	}
	if c.l.Stagger > 0 && t.on > 0 && (t.on > 1 || c.now.Sub(t.lastOn) < c.l.Stagger) {
		c.broken("%d hosts would be powered on within %s", t.on, c.l.Stagger)
	}
	if c.l.Stagger > 0 && t.off > 0 && (t.off > 1 || c.now.Sub(t.lastOff) < c.l.Stagger) {
		c.broken("%d hosts would be powered off within %s", t.off, c.l.Stagger)
	}
	if t.ready <= most {
		c.standby(actions)
	}
}

// before counts a host as it is.
func (c *checker) before(t *tally, v *seen) {
	t.lastOn, t.lastOff = later(t.lastOn, v.OnAt), later(t.lastOff, v.OffAt)
	inTime := c.now.Sub(v.Intent.At) < c.l.bootTimeout(v.View)
	switch {
	case v.phase == Ready:
		t.ready++
	case v.phase == Booting && inTime:
		t.coming++
		t.booting++
	case (v.phase == Unknown || v.phase == Held) && v.Verb == TurnOn && inTime && !c.dark(v):
		t.booting++
	case v.phase == Draining && !v.Said.leave():
		t.draining++
	}
}

// after counts what is done to a host.
func (c *checker) after(t *tally, do Verb, v *seen) {
	switch {
	case do == TurnOn:
		t.on++
		t.called = t.called || v.Said.Word != WordOn
	case do == Cordon && v.phase == Ready && v.Said.leave():
		t.out++
	case do == Cordon && v.phase == Ready:
		t.out++
		t.surplus++
	case do == Enable && v.phase == Draining:
		t.draining--
	case do == Enable && v.phase == Booting && v.overdue(c.now, c.l):
		t.coming++
		t.booting++
	case do == SoftOff && v.phase == Draining && !v.Said.leave():
		t.off++
		t.draining--
	case do == SoftOff, do == HardOff:
		t.off++
	}
}

// standby: of each class so many hosts without work stay in service.
func (c *checker) standby(actions []Action) {
	taken := make(map[string]bool)
	for _, a := range actions {
		if v := c.views[a.Host]; v != nil && a.Do == Cordon && v.phase == Ready && !v.Said.leave() && len(v.Node.Work) == 0 {
			taken[v.Class] = true
		}
	}
	for class := range taken {
		stay := 0
		for _, v := range c.all {
			if v.Class == class && v.phase == Ready && v.do != Cordon && len(v.Node.Work) == 0 {
				stay++
			}
		}
		if standby := c.l.Classes[class].Standby; stay < standby {
			c.broken("%d hosts of class %s would stand by, %d are to", stay, class, standby)
		}
	}
}

// warmFirst: no cold host is powered on while a warm one would do as well,
// which it does if it fits all that waits and fits the cold one, and if it can
// stand by where the cold one's class is to.
func (c *checker) warmFirst(actions []Action) {
	var warm []*seen
	for i := range c.all {
		v := &c.all[i]
		if v.phase == Draining && v.do != Enable && v.Said.Word == WordNone && v.Node.Status == NodeReady && v.lookedAgain(c.l) {
			warm = append(warm, v)
		}
	}
	for _, a := range actions {
		cold := c.views[a.Host]
		if cold == nil || a.Do != TurnOn || cold.Said.Word == WordOn {
			continue
		}
		for _, w := range warm {
			asWell := c.l.Classes[cold.Class].Standby == 0 || w.Class == cold.Class && len(w.Node.Work) == 0
			for _, ask := range c.asks {
				asWell = asWell && (!ask.fits(cold.Host) || ask.fits(w.Host) && ask.GPUs <= w.Host.GPUs-w.Node.GPUsBusy())
			}
			if asWell {
				c.broken("%s: a cold host would be powered on while %s is warm and can be called back", a, w.Host.ID)
			}
		}
	}
}

// budgets: no rack is taken above its power.
func (c *checker) budgets(actions []Action) {
	next := make(map[string]float64)
	for _, a := range actions {
		if v := c.views[a.Host]; v != nil && a.Do == TurnOn {
			class := c.l.Classes[v.Class]
			next[v.Domain] += max(class.BootWatts, class.RunWatts)
		}
	}
	draw := make(map[string]float64, len(next))
	for i := range c.all {
		v := &c.all[i]
		class := c.l.Classes[v.Class]
		switch {
		case c.dark(v):
		case v.Verb == TurnOn && c.now.Sub(v.Intent.At) < c.l.bootTimeout(v.View) && !v.joined(c.now, c.l):
			draw[v.Domain] += max(class.BootWatts, class.RunWatts)
		default:
			draw[v.Domain] += class.RunWatts
		}
	}
	for _, domain := range slices.Sorted(maps.Keys(next)) {
		budget, limited := c.l.Budgets[domain]
		// Sums in another order differ in their last digits.
		if total := draw[domain] + next[domain]; limited && next[domain] > 0 && total > budget*(1+1e-9) {
			c.broken("%s would draw up to %.0f W, its power budget is %.0f W", domain, total, budget)
		}
	}
}

// dark reports whether a host draws no power: read as off lately, and not
// told otherwise since.
func (c *checker) dark(v *seen) bool {
	if v.phase == Off || v.phase == Quarantined {
		return true
	}
	coming := v.Verb == TurnOn && v.Err == "" && c.now.Sub(v.Intent.At) < c.l.PowerConfirm
	return v.Power == PowerOff && c.now.Sub(v.PowerAt) <= c.l.StaleAfter && v.Node.Status != NodeReady && v.lookedAgain(c.l) && !coming
}

// refused: a provider that had no host of a class to give is not asked again
// within the minute, nor the sooner the more often it said so, unless it gave
// one since.
func (c *checker) refused(actions []Action) {
	last, wait := make(map[string]time.Time), make(map[string]time.Time) // by class
	for _, v := range c.all {
		if v.refused(c.now, c.l) {
			last[v.Class] = later(last[v.Class], v.SettledAt)
			wait[v.Class] = later(wait[v.Class], v.SettledAt.Add(time.Minute<<min(v.Refusals, 5)))
		}
	}
	if len(last) == 0 {
		return
	}
	for _, v := range c.all {
		if at, ok := last[v.Class]; ok && v.OnAt.After(at) {
			delete(wait, v.Class)
		}
	}
	for _, a := range actions {
		if v := c.views[a.Host]; v != nil && a.Do == TurnOn {
			c.require(a, !c.now.Before(wait[v.Class]), "its class was refused a moment ago")
		}
	}
}
