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
	case Enable:
		c.require(a, node.Status == NodeReady, "its node is not ready")
		c.require(a, v.Verb != TurnOn || node.Index == 0 || node.Index > v.Intent.NodeIndex, "its node has not registered since the power-on")
		c.require(a, v.Verb != SoftOff && v.Verb != HardOff, "it is shutting down")
	case Cordon:
		c.require(a, c.phase[a.Host] == Ready, "it is not in service")
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
	c.require(a, node.Mark == MarkOurs || v.Verb == SoftOff || v.Verb == HardOff, "no drain of ours has finished on it")
	c.require(a, v.Power != PowerUnknown && c.now.Sub(v.PowerAt) <= c.l.StaleAfter, "its power was not read lately")
	if node.Status == NodeReady && c.l.Agent != AgentNone {
		passing := v.Agent.Status == AgentPassing && c.now.Sub(v.AgentAt) <= c.l.StaleAfter
		c.require(a, passing || c.l.Agent == AgentOptional, "its agent does not say whether its GPUs are idle")
		c.require(a, !passing || v.Agent.Outside == 0, "its GPUs are busy outside Nomad")
		c.require(a, c.l.Agent == AgentOptional || v.Agent.Blind == "", "its agent cannot tell whether its GPUs are idle")
	}
	if a.Do == HardOff {
		c.require(a, c.l.HardOff, "hard off is not allowed in this pool")
		c.require(a, v.Verb == SoftOff || v.Verb == HardOff, "it was not asked to shut down before")
		c.require(a, c.now.Sub(v.Intent.At) >= c.l.SoftOffTimeout, "it still has time to shut down by itself")
	}
}

func (c *checker) require(a Action, ok bool, why string) {
	if !ok {
		c.broken("%s: %s", a, why)
	}
}

// together checks the laws that concern the pool.
func (c *checker) together(floor int, actions []Action) {
	var ready, booting, draining, on, cordon int
	callBack := 0
	for id, p := range c.phase {
		v := c.views[id]
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
			cordon++
		case Enable, SoftOff:
			if c.phase[a.Host] == Draining {
				draining--
				if a.Do == Enable {
					callBack--
				}
			}
		}
	}
	if on > 0 && booting+on > c.l.MaxBooting {
		c.broken("%d hosts would boot at once, %d are allowed", booting+on, c.l.MaxBooting)
	}
	if cordon > 0 && draining+cordon > c.l.MaxDraining {
		c.broken("%d hosts would drain at once, %d are allowed", draining+cordon, c.l.MaxDraining)
	}
	if cordon > 0 && ready-cordon < min(floor, len(c.views)) {
		c.broken("%d hosts would stay in service, %d are wanted", ready-cordon, floor)
	}
	if on > 0 && callBack > 0 {
		c.broken("a cold host would be powered on while %d warm ones can be called back", callBack)
	}
}
