package pool

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Limits are a pool's rules, from the inventory. All durations are positive.
type Limits struct {
	Min int // ready floor: never fewer hosts kept in service than this, whatever is wanted
	Max int // never more hosts in service or on their way than this; 0 is none

	Spare int // hosts kept in service beyond those that are wanted

	MaxBooting  int // hosts booting at once, at least 1
	MaxDraining int // hosts draining at once, at least 1

	// PowerConfirm is how long a chassis may read off after it was told to
	// power on, before the command counts as lost and is given again.
	PowerConfirm time.Duration
	// BootTimeout is how long a host may take from power-on to a ready node
	// with all its GPUs, unless its class says otherwise, or experience does:
	// see Learn. A host that takes longer stops counting as capacity on its
	// way, so that another one is tried.
	BootTimeout time.Duration
	// SoftOffTimeout is how long a host may take to shut down in order.
	SoftOffTimeout time.Duration
	// HardOff allows cutting the power of a drained host that does not shut
	// down within SoftOffTimeout. Without it the soft off is repeated. A host
	// that did not boot is cut off in any case: it has nothing to lose.
	HardOff bool
	// MinOn is how long a host stays on at least once it was powered on.
	MinOn time.Duration
	// CycleBudget is how often a host may be powered on in a day (UTC); 0 is
	// without limit.
	CycleBudget int
	// Stagger is the least time between two power-ons in the pool, and between
	// two offs, which spares the rack its in-rush and its drop in load.
	Stagger time.Duration
	// StaleAfter is the age at which a sight stops being evidence.
	StaleAfter time.Duration
	// Fence is how long after an act whose outcome is unknown nothing more is
	// done to the host: a BMC can execute a command that timed out seconds
	// before.
	Fence time.Duration
	// Agent says what the host's agent has to do with it.
	Agent AgentRule

	// Classes are the kinds of hosts, by name. A host of a class that is not
	// there is of the zero [Class].
	Classes map[string]Class
	// Budgets are the watts that the hosts of a domain may draw together, by
	// [Host.Domain]. A domain that is not there has no limit. No host is
	// powered on beyond it; none is powered off because of it.
	Budgets map[string]float64
	// DrainWork says which work may be drained away from a surplus host. Where
	// hosts of any class stand by, none is: it could land on them.
	DrainWork WorkRule

	// learned are boot timeouts from experience, by class: see Learn.
	learned map[string]time.Duration
}

// What makes a boot timeout of what was learned.
const (
	learnedFrom   = 10 // boots of a class; fewer say little of a p95
	learnedQ      = 0.95
	learnedMargin = 2 // so much longer than the p95 a boot may take
	learnedLeast  = 4 // never less than the configured timeout divided by this
)

// Learn returns the limits with boot timeouts as short as experience allows: a
// host that takes twice as long as 95 % of its class did will most likely not
// come, and another one is tried the sooner. They are never longer than
// configured, and never less than a quarter of that. A host that failed to
// boot is given the configured time when it is tried again, so that a class
// that became slower, with a new firmware say, is not given up for ever.
func (l Limits) Learn(times map[string]Times) Limits {
	l.learned = nil
	for class, t := range times {
		if len(t.Boot.Last) < learnedFrom {
			continue
		}
		if l.learned == nil {
			l.learned = make(map[string]time.Duration, len(times))
		}
		l.learned[class] = learnedMargin * t.Boot.Quantile(learnedQ)
	}
	return l
}

// bootTimeout is how long a host may take from power-on to its place in
// service.
func (l Limits) bootTimeout(v *View) time.Duration {
	most := cmp.Or(l.Classes[v.Class].BootTimeout, l.BootTimeout)
	if learned := l.learned[v.Class]; learned > 0 && v.FailedBoots == 0 {
		return min(max(learned, most/learnedLeast, l.PowerConfirm), most)
	}
	return most
}

// standby is how many hosts stand by in all classes together.
func (l Limits) standby() int {
	n := 0
	for _, c := range l.Classes {
		n += c.Standby
	}
	return n
}

// WorkRule says which work may be moved to take a surplus host out of service.
type WorkRule int

// The rules that there are. Work outside Nomad is never moved.
const (
	DrainNone     WorkRule = iota // hosts without work only
	DrainServices                 // service allocations too, which Nomad places elsewhere first
	DrainAll                      // batch work too, which starts again from its beginning
)

func (r WorkRule) String() string { return name(int(r), "none", "services", "all") }

// AgentRule says how far a pool trusts hosts without an agent.
type AgentRule int

// The rules that there are.
const (
	AgentRequired AgentRule = iota // in service only with a passing agent; off only if it says that the GPUs are idle
	AgentOptional                  // an agent that says that GPUs are busy is heard; a missing one is not missed
	AgentNone                      // there are no agents
)

func (r AgentRule) String() string { return name(int(r), "required", "optional", "none") }

// Validate reports every limit that cannot work, all at once.
func (l Limits) Validate() error {
	var errs []error
	bad := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	bad(l.Min < 0, "min is %d, must not be negative", l.Min)
	bad(l.Max < max(l.Min, 0), "max is %d, must not be negative or below min %d", l.Max, l.Min)
	bad(l.Spare < 0, "spare is %d, must not be negative", l.Spare)
	bad(l.CycleBudget < 0, "cycle_budget is %d, must not be negative", l.CycleBudget)
	bad(l.MinOn < 0, "min_on is %s, must not be negative", l.MinOn)
	bad(l.Stagger < 0, "stagger is %s, must not be negative", l.Stagger)
	bad(l.MaxBooting < 1, "max_booting is %d, must be at least 1", l.MaxBooting)
	bad(l.MaxDraining < 1, "max_draining is %d, must be at least 1", l.MaxDraining)
	for _, d := range []struct {
		key string
		d   time.Duration
	}{
		{"power_confirm", l.PowerConfirm},
		{"boot_timeout", l.BootTimeout},
		{"soft_off_timeout", l.SoftOffTimeout},
		{"stale_after", l.StaleAfter},
		{"fence", l.Fence},
	} {
		bad(d.d <= 0, "%s is %s, must be positive", d.key, d.d)
	}
	bad(l.BootTimeout < l.PowerConfirm, "boot_timeout %s is shorter than power_confirm %s", l.BootTimeout, l.PowerConfirm)
	for _, name := range slices.Sorted(maps.Keys(l.Classes)) {
		c := l.Classes[name]
		bad(!(c.BootWatts >= 0 && c.RunWatts >= 0), "class %q: boot_watts %g and run_watts %g must not be negative", name, c.BootWatts, c.RunWatts)
		bad(!(c.Cost >= 0), "class %q: cost is %g, must not be negative", name, c.Cost)
		bad(c.Standby < 0, "class %q: standby is %d, must not be negative", name, c.Standby)
		bad(c.BootTimeout != 0 && c.BootTimeout < l.PowerConfirm, "class %q: boot_timeout %s is shorter than power_confirm %s", name, c.BootTimeout, l.PowerConfirm)
	}
	for _, domain := range slices.Sorted(maps.Keys(l.Budgets)) {
		bad(!(l.Budgets[domain] >= 0), "the power budget of %q is %g W, must not be negative", domain, l.Budgets[domain])
	}
	return errors.Join(errs...)
}
