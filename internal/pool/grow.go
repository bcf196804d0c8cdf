package pool

import (
	"cmp"
	"fmt"
	"slices"
)

// demand is hosts that are to come into service, for one purpose.
type demand struct {
	why  string
	fits func(h *host) bool // it would do
	more func() bool        // another one is needed
	came func(h *host)      // one that fits is on its way
}

// grow brings hosts into service: for work that waits, hosts that it fits; for
// a class that stands by, its own; and for the rest of what is wanted, any.
func (r *reconciler) grow(asks []Ask) {
	for _, d := range r.demands(asks) {
		for _, h := range r.leaving() {
			if r.have() < r.most && d.more() && d.fits(h) {
				if h.called = true; h.free {
					r.act(h, Enable, "demand came back before it was off")
				} else {
					r.await(h)
				}
				d.came(h)
			}
		}
		if d.more() {
			r.powerOnFor(d)
		}
	}
	switch short := r.d.Want - r.have(); {
	case short <= 0:
	case r.full != "":
		r.note("%d more wanted, but %s", short, r.full)
	default:
		r.note("%d more wanted, but no host is left to power on%s", short, passedOver("; %s is passed over: %s", r.hosts))
	}
}

// demands are what the hosts to come are for, the most special first.
func (r *reconciler) demands(asks []Ask) []demand {
	var demands []demand
	waiting, misfits := r.waiting(asks)
	for _, a := range waiting {
		demands = append(demands, demand{
			why:  fmt.Sprintf("work of %s waits that it fits", plural(a.GPUs, "GPU")),
			fits: func(h *host) bool { return a.fits(h.View.Host) && h.spare() >= a.GPUs },
			// What waits says which hosts, not how many: no more than are wanted,
			// and one for each that is in service and of no use to what waits.
			more: func() bool { return a.Count > 0 && r.short()+misfits > 0 },
			came: func(h *host) { a.Count -= h.spare() / a.GPUs },
		})
	}
	for _, k := range r.kinds {
		if k.idle < k.Standby {
			demands = append(demands, demand{
				why:  fmt.Sprintf("%d of class %s to stand by, %d without work", k.Standby, k.name, k.idle),
				fits: func(h *host) bool { return h.kind == k && !h.loaded() },
				more: func() bool { return k.idle < k.Standby },
				came: func(*host) {},
			})
		}
	}
	return append(demands, demand{
		why:  fmt.Sprintf("%d wanted, %d in service or on their way", r.d.Want, r.d.Have),
		fits: func(*host) bool { return true },
		more: func() bool { return r.short() > 0 },
		came: func(*host) {},
	})
}

// waiting is the work that waits and that no host in service or on its way
// will take, and how many hosts are in service without work, and of no use to
// any that waits.
func (r *reconciler) waiting(asks []Ask) (waiting []*Ask, misfits int) {
	for _, a := range slices.SortedFunc(slices.Values(asks), easier) {
		if a.GPUs > 0 && a.Count > 0 {
			waiting = append(waiting, &a)
		}
	}
	if len(waiting) == 0 {
		return nil, 0
	}
	misfit := make(map[*kind]int)
	for _, h := range r.hosts {
		h.awaited = slices.ContainsFunc(waiting, func(a *Ask) bool { return a.fits(h.View.Host) })
		if !h.comes {
			continue
		}
		free := h.spare()
		for _, a := range waiting {
			if n := min(a.Count, free/a.GPUs); n > 0 && a.fits(h.View.Host) {
				a.Count -= n
				free -= n * a.GPUs
			}
		}
		if h.Phase == Ready && !h.awaited && !h.loaded() {
			misfit[h.kind]++
		}
	}
	for k, n := range misfit {
		misfits += max(n-k.Standby, 0)
	}
	return slices.DeleteFunc(waiting, func(a *Ask) bool { return a.Count <= 0 }), misfits
}

// easier puts work that is harder to serve first: of fewer classes, and larger.
func easier(a, b Ask) int {
	return cmp.Or(
		compareBool(len(a.Classes) == 0, len(b.Classes) == 0), cmp.Compare(len(a.Classes), len(b.Classes)),
		cmp.Compare(b.GPUs, a.GPUs), slices.Compare(a.Classes, b.Classes), cmp.Compare(a.Count, b.Count),
	)
}

// leaving lists the draining hosts that demand may have back, those first that
// can be called back now, then the cheapest.
func (r *reconciler) leaving() []*host {
	var leaving []*host
	if r.draining == 0 {
		return nil
	}
	for _, h := range r.hosts {
		if h.Phase == Draining && !h.busy && !h.called && h.Said.Word == WordNone {
			leaving = append(leaving, h)
		}
	}
	slices.SortStableFunc(leaving, func(a, b *host) int {
		return cmp.Or(compareBool(!a.free, !b.free), cmp.Compare(a.kind.Cost, b.kind.Cost))
	})
	return leaving
}

// powerOnFor powers on cold hosts that fit a demand, in their order.
func (r *reconciler) powerOnFor(d demand) {
	cold := r.coldFor(d)
	from := 0 // after the last that was powered on
	for i, h := range cold {
		if !d.more() {
			return
		}
		if r.have() >= r.most {
			r.full = fmt.Sprintf("%d are in service or on their way, the most allowed", r.most)
			return
		}
		if !r.mayBootMore() {
			return
		}
		if ok, why := r.mayPowerOn(h); !ok {
			h.passed = why
			continue
		}
		why := d.why
		if i+1 < len(cold) {
			why += "; " + because(onRules, h, cold[i+1])
		}
		r.powerOn(h, why+passedOver("; %s is passed over: %s", cold[from:i]))
		d.came(h)
		from = i + 1
	}
}

// coldFor are the hosts that are off and fit a demand, in their order.
func (r *reconciler) coldFor(d demand) []*host {
	if r.cold == nil {
		for _, h := range r.hosts {
			if h.Phase == Off && h.free && !h.busy && h.Said.Word == WordNone {
				r.cold = append(r.cold, h)
			}
		}
		line(r.cold, onRules)
	}
	fit := make([]*host, 0, len(r.cold))
	for _, h := range r.cold {
		if !h.busy && d.fits(h) {
			fit = append(fit, h)
		}
	}
	spread(fit, onRules, 1)
	return fit
}

// passedOver says, in the given form, why the first of some hosts was passed
// over, and how many others were; nothing if none was.
func passedOver(form string, hosts []*host) string {
	said, others := "", 0
	for _, h := range hosts {
		switch {
		case h.passed == "":
		case said == "":
			said = fmt.Sprintf(form, h.Status.ID, h.passed)
		default:
			others++
		}
	}
	if others > 0 {
		said += fmt.Sprintf(" (and %d more)", others)
	}
	return said
}

// mayBootMore reports whether one more host may be powered on now.
func (r *reconciler) mayBootMore() bool {
	r.full = ""
	if r.booting >= r.l.MaxBooting {
		r.full = fmt.Sprintf("%s already, the most allowed", boot(r.booting))
	} else if r.now.Sub(r.lastOn) < r.l.Stagger {
		r.full = fmt.Sprintf("one is powered on every %s", r.l.Stagger)
	}
	return r.full == ""
}

func boot(n int) string {
	if n == 1 {
		return "1 host boots"
	}
	return fmt.Sprintf("%d hosts boot", n)
}

// mayPowerOn reports whether a host that is off may be powered on now, and if
// not, why: its last attempt was a moment ago, its budget of cycles is used up,
// its provider has none to give, or its rack has not the power.
func (r *reconciler) mayPowerOn(h *host) (bool, string) {
	if h.Verb == TurnOn && !h.NoCapacity && r.now.Sub(h.Intent.At) < r.l.PowerConfirm {
		return false, fmt.Sprintf("it was told to power on less than %s ago", r.l.PowerConfirm)
	}
	if r.l.CycleBudget > 0 && h.cycles >= r.l.CycleBudget {
		return false, fmt.Sprintf("it was powered on %d times today, its budget", h.cycles)
	}
	if dry := h.kind.dry; dry.n > 0 {
		if until := dry.until(h.Host.Class); r.now.Before(until) {
			return false, fmt.Sprintf("its provider has none of class %s to give; to be asked again after %s", h.Host.Class, until.UTC().Format("15:04 UTC"))
		}
	}
	if d := h.domain; d.limited && d.watts+h.kind.peak() > d.budget && h.kind.peak() > 0 {
		return false, fmt.Sprintf("it draws up to %.0f W, and of the %.0f W of %s %.0f W are in use", h.kind.peak(), d.budget, h.Domain, d.watts)
	}
	return true, ""
}

// powerOn powers a host on and counts what that uses up.
func (r *reconciler) powerOn(h *host, why string) {
	r.lastOn = r.now
	h.domain.on++
	h.domain.watts += h.kind.peak()
	ledger := r.after(h, TurnOn)
	ledger.FailedBoots = h.failed
	ledger.Refusals = h.kind.dry.n
	r.record(h, TurnOn, why, ledger)
}
