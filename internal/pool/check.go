package pool

import (
	"errors"
	"fmt"
	"time"
)

// ErrUnsafe is what every broken law wraps.
var ErrUnsafe = errors.New("unsafe")

// Check states the safety laws once more, from what is seen rather than from
// how Reconcile came to its actions. It runs before anything is done, in the
// live loop, in the simulator and in the tests, and returns every law that the
// actions would break. An error means that nothing of them may be done.
func Check(now time.Time, want int, s Snapshot, actions []Action, l Limits) error {
	c := checker{now: now, l: l, views: make(map[string]View, len(s.Hosts)), phase: make(map[string]Phase, len(s.Hosts))}
	for _, v := range s.Hosts {
		if _, twice := c.views[v.Host.ID]; twice {
			c.broken("host %s is in the snapshot twice", v.Host.ID)
		}
		p, _ := PhaseOf(v, now, l)
		c.views[v.Host.ID], c.phase[v.Host.ID] = v, p
	}
	c.each(actions)
	c.together(max(want, l.Min), actions)
	return errors.Join(c.errs...)
}

type checker struct {
	now   time.Time
	l     Limits
	views map[string]View
	phase map[string]Phase
	errs  []error
}

func (c *checker) broken(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf("%w: "+format, append([]any{ErrUnsafe}, args...)...))
}

// each checks the laws that concern one host at a time.
func (c *checker) each(actions []Action) {
	seen := make(map[string]bool, len(actions))
	for _, a := range actions {
		v, known := c.views[a.Host]
		if !known {
			c.broken("%s: no such host", a)
			continue
		}
		if seen[a.Host] {
			c.broken("%s: a second action on one host", a)
		}
		seen[a.Host] = true
		switch p := c.phase[a.Host]; p {
		case Unknown, Held:
			c.broken("%s: the host is %s", a, p)
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
	}
}

// one checks the law of one verb.
func (c *checker) one(a Action, v View) {
	node := v.Node
	switch a.Do {
	case TurnOn:
		c.require(a, v.Power == PowerOff && c.now.Sub(v.PowerAt) <= c.l.StaleAfter, "its chassis was not read as off lately")
		c.require(a, c.phase[a.Host] != Quarantined, "it is in quarantine")
		c.require(a, c.l.CycleBudget == 0 || v.cyclesToday(c.now) < c.l.CycleBudget, "its cycles of the day are used up")
		c.require(a, a.Ledger.OnAt.Equal(c.now) && a.Ledger.Cycles > 0, "it is not written down in its ledger")
	case Enable:
		c.require(a, node.Status == NodeReady, "its node is not ready")
		c.require(a, v.Verb != TurnOn || node.Index == 0 || node.Index > v.Intent.NodeIndex || v.overdue(c.now, c.l), "its node has not registered since the power-on")
		c.require(a, v.Verb != SoftOff && v.Verb != HardOff, "it is shutting down")
	case Cordon:
		c.require(a, c.phase[a.Host] == Ready || c.neverJoined(v), "it is not in service")
		c.require(a, v.OnAt.IsZero() || c.now.Sub(v.OnAt) >= c.l.MinOn || c.neverJoined(v), "it has not been on for its least time")
		c.require(a, len(node.Work) == 0, "it has work")
	case Drain:
		c.require(a, !node.Eligible, "it is still eligible, so work may land on it")
		c.require(a, len(node.Work) == 0, "it has work")
	case SoftOff, HardOff:
		c.off(a, v)
	default:
		c.broken("%s: not a thing to do", a)
	}
}

// off is the law that the project stands on: no host loses its power with
// work on it, inside Nomad or outside.
func (c *checker) off(a Action, v View) {
	node := v.Node
	c.require(a, len(node.Work) == 0, "it has work")
	c.require(a, !node.Eligible, "it is eligible, so work may land on it")
	c.require(a, !node.Draining, "its drain has not finished")
	c.require(a, node.Mark == MarkOurs || v.Verb == SoftOff || v.Verb == HardOff || c.neverJoined(v), "no drain of ours has finished on it")
	c.require(a, v.Power != PowerUnknown && c.now.Sub(v.PowerAt) <= c.l.StaleAfter, "its power was not read lately")
	passing := v.Agent.Status == AgentPassing && c.now.Sub(v.AgentAt) <= c.l.StaleAfter
	c.require(a, !passing || v.Agent.Outside == 0 || c.l.Agent == AgentNone, "its GPUs are busy outside Nomad")
	if node.Status == NodeReady && c.l.Agent != AgentNone {
		c.require(a, passing || c.l.Agent == AgentOptional, "its agent does not say whether its GPUs are idle")
		c.require(a, c.l.Agent == AgentOptional || v.Agent.Blind == "", "its agent cannot tell whether its GPUs are idle")
	}
	if a.Do == SoftOff {
		c.require(a, a.Ledger.OffAt.Equal(c.now), "it is not written down in its ledger")
	}
	if a.Do == HardOff {
		c.require(a, c.l.HardOff || v.FailedBoots > 0 && node.Status != NodeReady, "hard off is not allowed in this pool")
		c.require(a, v.Verb == SoftOff && !v.SettledAt.IsZero() || v.Verb == HardOff, "it was not asked to shut down before")
		c.require(a, c.now.Sub(v.Intent.At) >= c.l.SoftOffTimeout, "it still has time to shut down by itself")
	}
}

// neverJoined reports whether nothing can run on a host because its client has
// not registered since the power-on, in the time that it has for it.
func (c *checker) neverJoined(v View) bool {
	if v.Node.Status == NodeReady || v.Node.Status == NodeInit {
		return false
	}
	return v.Verb == TurnOn && c.now.Sub(v.Intent.At) >= c.l.BootTimeout || v.Verb == Cordon && v.FailedBoots > 0
}

func (c *checker) require(a Action, ok bool, why string) {
	if !ok {
		c.broken("%s: %s", a, why)
	}
}

// together checks the laws that concern the pool.
func (c *checker) together(floor int, actions []Action) {
	var ready, booting, draining, on, off, cordon int
	var lastOn, lastOff time.Time
	callBack := 0
	for id, p := range c.phase {
		v := c.views[id]
		lastOn = later(lastOn, v.OnAt)
		lastOff = later(lastOff, v.OffAt)
		switch p {
		case Ready:
			ready++
		case Booting:
			if c.now.Sub(v.Intent.At) < c.l.BootTimeout {
				booting++
			}
		case Draining:
			draining++
			if v.Node.Status == NodeReady && v.lookedAgain(c.l) {
				callBack++
			}
		}
	}
	for _, a := range actions {
		switch a.Do {
		case TurnOn:
			on++
		case Cordon:
			if c.phase[a.Host] == Ready {
				cordon++
			}
		case Enable:
			switch p := c.phase[a.Host]; {
			case p == Draining:
				draining--
				callBack--
			case p == Booting && c.views[a.Host].overdue(c.now, c.l):
				booting++
			}
		case SoftOff:
			off++
			if c.phase[a.Host] == Draining {
				draining--
			}
		}
	}
	if on > 0 && booting+on > c.l.MaxBooting {
		c.broken("%d hosts would boot at once, %d are allowed", booting+on, c.l.MaxBooting)
	}
	if cordon > 0 && draining+cordon > c.l.MaxDraining {
		c.broken("%d hosts would drain at once, %d are allowed", draining+cordon, c.l.MaxDraining)
	}
	if on > 0 && ready+booting+on > c.l.most(len(c.views)) {
		c.broken("%d hosts would be in service or on their way, %d may be", ready+booting+on, c.l.most(len(c.views)))
	}
	if cordon > 0 && ready-cordon < min(floor, c.l.most(len(c.views))) {
		c.broken("%d hosts would stay in service, %d are wanted", ready-cordon, floor)
	}
	if c.l.Stagger > 0 && on > 0 && (on > 1 || c.now.Sub(lastOn) < c.l.Stagger) {
		c.broken("%d hosts would be powered on within %s", on, c.l.Stagger)
	}
	if c.l.Stagger > 0 && off > 0 && (off > 1 || c.now.Sub(lastOff) < c.l.Stagger) {
		c.broken("%d hosts would be powered off within %s", off, c.l.Stagger)
	}
	if on > 0 && callBack > 0 {
		c.broken("a cold host would be powered on while %d warm ones can be called back", callBack)
	}
}
