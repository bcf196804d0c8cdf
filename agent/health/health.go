// Package health judges whether a GPU is fit for work, and what would mend it,
// from what its driver says of it. It is a function of one [fleet.GPU]: it
// remembers nothing and asks nobody.
//
// The rules, in short. What the driver itself says must be done comes first.
// A GPU that is lost or does not answer has failed, and so has one with an
// error that only a reset or more ends. A GPU that works but waits for a
// reset, is held back by heat or power, or is not in its NVLink fabric yet is
// degraded: its work may go on, new work is better placed elsewhere.
package health

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/gpupool/gpupool/internal/fleet"
)

// slowShare is the share of the last minute of throttling that counts.
const slowShare = 0.5

// relapses is how often an error comes back after it was mended until it is
// for people to mend.
const relapses = 2

// finding is one thing that is against a GPU.
type finding struct {
	verdict fleet.Verdict
	action  fleet.Action
	why     string
}

// Judge is the verdict on a GPU. Of its findings the worst counts, and the
// strongest action; Why has those of the verdict first. Facts that are not
// known are nothing against a GPU, and stale ones are still true.
func Judge(g fleet.GPU) fleet.Health {
	if g.State == fleet.StateUnknown {
		return fleet.Health{Verdict: fleet.HealthUnknown, Why: []string{"not sampled yet"}}
	}
	found := slices.Concat(state(g), recovery(g), memory(g), xids(g), fabric(g), slow(g))
	if len(found) == 0 {
		return fleet.Health{Verdict: fleet.HealthOK}
	}
	slices.SortStableFunc(found, func(a, b finding) int { return cmp.Compare(rank(b.verdict), rank(a.verdict)) })
	h := fleet.Health{Verdict: found[0].verdict}
	for _, f := range found {
		if stronger(f.action, h.Action) {
			h.Action = f.action
		}
		h.Why = append(h.Why, f.why)
	}
	h.Why = h.Why[:min(len(h.Why), 16)]
	return h
}

func rank(v fleet.Verdict) int { return slices.Index(fleet.Verdicts, v) }

func stronger(a, b fleet.Action) bool {
	return slices.Index(fleet.Actions, a) > slices.Index(fleet.Actions, b)
}

func failed(action fleet.Action, format string, args ...any) []finding {
	return []finding{{fleet.HealthFailed, action, fmt.Sprintf(format, args...)}}
}

func degraded(action fleet.Action, format string, args ...any) []finding {
	return []finding{{fleet.HealthDegraded, action, fmt.Sprintf(format, args...)}}
}

// state judges whether the GPU answers. A driver that hangs in the kernel ends
// with the kernel, and a GPU that left the bus comes back with the power.
func state(g fleet.GPU) []finding {
	switch {
	case g.State == fleet.StateLost && g.Recovery.Known() && g.Recovery.Action == "reset":
		return failed(fleet.ActionReset, "lost: %s", g.Why)
	case g.State == fleet.StateLost:
		return failed(fleet.ActionCycle, "lost: %s", g.Why)
	case g.State == fleet.StateUnresponsive:
		return failed(fleet.ActionCycle, "unresponsive: %s", g.Why)
	}
	return nil
}

// recovery follows the driver's own advice, which newer drivers give.
func recovery(g fleet.GPU) []finding {
	if !g.Recovery.Known() {
		return nil
	}
	const says = "the driver asks for %s"
	switch a := g.Recovery.Action; a {
	case "none":
		return nil
	case "reset", "bus-reset":
		return failed(fleet.ActionReset, says, a)
	case "reboot", "system-reboot":
		return failed(fleet.ActionCycle, says, a)
	case "drain-and-reset": // what runs may end first
		return degraded(fleet.ActionReset, says, a)
	default: // peers must be drained, the IMEX domain mended, or it is newer than this agent
		return degraded(fleet.ActionNone, says, a)
	}
}

// memory judges errors that need a reset or a new board.
func memory(g fleet.GPU) (found []finding) {
	if g.Rows.Known() {
		if g.Rows.Failed {
			found = append(found, failed(fleet.ActionRepair, "a memory row could not be replaced")...)
		}
		if g.Rows.Pending {
			found = append(found, degraded(fleet.ActionReset, "a memory row is replaced at the next reset")...)
		}
	}
	if g.Pages.Known() && g.Pages.Pending {
		found = append(found, degraded(fleet.ActionReset, "a memory page is retired at the next reset")...)
	}
	if n := g.ECC.Uncorrected; g.ECC.Known() && n != nil && *n > 0 {
		found = append(found, degraded(fleet.ActionReset, "%d uncorrectable memory errors since the last reset", *n)...)
	}
	return found
}

// xids judges the errors that no reset has ended yet.
func xids(g fleet.GPU) (found []finding) {
	for _, x := range g.XIDs.List {
		if !x.Open {
			continue
		}
		why := fmt.Sprintf("XID %d: %s", x.Code, Find(x.Code).What)
		switch {
		case x.Class == fleet.XIDReplace:
			found = append(found, failed(fleet.ActionRepair, "%s", why)...)
		case x.Class == fleet.XIDReset && x.Relapses >= relapses, x.Class == fleet.XIDCycle && x.Relapses >= relapses:
			found = append(found, failed(fleet.ActionRepair, "%s, back again after %d resets", why, x.Relapses)...)
		case x.Class == fleet.XIDReset:
			found = append(found, failed(fleet.ActionReset, "%s", why)...)
		case x.Class == fleet.XIDCycle:
			found = append(found, failed(fleet.ActionCycle, "%s", why)...)
		case x.Class == fleet.XIDUnknown:
			found = append(found, degraded(fleet.ActionNone, "%s", why)...)
		}
	}
	return found
}

// fabric judges whether CUDA can start on a GPU of an NVSwitch system.
func fabric(g fleet.GPU) []finding {
	f := g.Fabric
	if !f.Known() || f.State == "unsupported" {
		return nil
	}
	switch {
	case f.State == "completed" && f.Status != 0:
		return failed(fleet.ActionNone, "the NVLink fabric refused the GPU (NVML %d): see the fabric manager's log", f.Status)
	case f.State != "completed":
		return degraded(fleet.ActionNone, "not in the NVLink fabric yet (%s): is the fabric manager running?", f.State)
	case f.Health == "unhealthy" || f.Health == "limited-capacity":
		return degraded(fleet.ActionNone, "the NVLink fabric is %s for this GPU", f.Health)
	}
	return nil
}

// slow judges whether the GPU does less than it could.
func slow(g fleet.GPU) (found []finding) {
	if !g.Throttle.Fresh() || len(g.Throttle.Over) == 0 {
		return nil
	}
	for _, r := range fleet.ThrottleReasons {
		if share := g.Throttle.Over[0].Shares[r.Name]; r.Slow && share >= slowShare {
			found = append(found, degraded(fleet.ActionNone, "slowed down (%s) for %.0f %% of the last %g s", r.Name, 100*share, g.Throttle.Over[0].Seconds)...)
		}
	}
	return found
}
