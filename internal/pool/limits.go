package pool

import (
	"errors"
	"fmt"
	"time"
)

// Limits are a pool's rules, from the inventory. All durations are positive.
type Limits struct {
	Min int // ready floor: never fewer hosts kept in service than this, whatever is wanted

	MaxBooting  int // hosts booting at once, at least 1
	MaxDraining int // hosts draining at once, at least 1

	// PowerConfirm is how long a chassis may read off after it was told to
	// power on, before the command counts as lost and is given again.
	PowerConfirm time.Duration
	// BootTimeout is how long a host may take from power-on to a ready node
	// with all its GPUs. A host that takes longer stops counting as capacity
	// on its way, so that another one is tried.
	BootTimeout time.Duration
	// SoftOffTimeout is how long a host may take to shut down in order.
	SoftOffTimeout time.Duration
	// HardOff allows cutting the power of a drained host that does not shut
	// down within SoftOffTimeout. Without it the soft off is repeated.
	HardOff bool
	// StaleAfter is the age at which a sight stops being evidence.
	StaleAfter time.Duration
	// Fence is how long after an act whose outcome is unknown nothing more is
	// done to the host: a BMC can execute a command that timed out seconds
	// before.
	Fence time.Duration
	// Agent says what the host's agent has to do with it.
	Agent AgentRule
}

// AgentRule says how far a pool trusts hosts without an agent.
type AgentRule int

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
	return errors.Join(errs...)
}
