package pool

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Action is one thing to do to one host, and why.
type Action struct {
	Host string
	Do   Verb
	Why  string
	// Ledger is what is recorded of the host with the action.
	Ledger Ledger
}

func (a Action) String() string { return fmt.Sprintf("%s %s: %s", a.Do, a.Host, a.Why) }

// Status is where one host stands, as of one decision.
type Status struct {
	ID       string
	Phase    Phase
	Why      string
	Overdue  bool // booting for longer than the boot timeout: not counted on
	GPUs     int
	GPUsBusy int
	Power    Power
	Class    string
	Watts    float64 // estimated draw, by its class; 0 if off or not known
}

// Decision is the answer of one tick: what to do, and how things stand.
type Decision struct {
	Want    int      // what was asked for, corrected to the floor and to the hosts there are
	Have    int      // hosts that are in service or on their way
	Ready   int      // hosts that are in service
	Note    string   // why want cannot be met or undercut now; empty if it can
	Hosts   []Status // sorted by ID
	Actions []Action // sorted by host; at most one for each
}

// Reconcile decides what to do at now so that the pool comes to want hosts in
// service. It depends on nothing but its arguments, on the order of hosts in
// the snapshot not at all, and, applied again before anybody looked at what
// its actions did, it adds nothing.
func Reconcile(now time.Time, want int, s Snapshot, l Limits) Decision {
	r := newReconciler(now, s, l)
	r.d.Want = min(max(want+l.Spare, l.Min), l.most(len(s.Hosts)))
	r.finish()
	r.d.Have = r.count[Ready] + r.count[Booting] // with those that come late
	if short := r.d.Want - r.d.Have; short > 0 {
		r.grow(short)
	} else {
		r.shrink()
	}
	slices.SortFunc(r.d.Actions, func(a, b Action) int { return cmp.Compare(a.Host, b.Host) })
	return r.d
}

// reconciler holds what the steps of one decision share.
type reconciler struct {
	now   time.Time
	l     Limits
	hosts []host // sorted by ID
	count [phases]int
	d     Decision

	lastOn, lastOff time.Time // of any host of the pool
}

// host is a view with its phase.
type host struct {
	View
	Status
	free bool // last intent has been looked at since: something may be done
	busy bool // this decision already does something to it
}

func newReconciler(now time.Time, s Snapshot, l Limits) *reconciler {
	r := &reconciler{now: now, l: l}
	for _, v := range s.Hosts {
		st := statusOf(v, now, l)
		r.hosts = append(r.hosts, host{View: v, Status: st, free: v.lookedAgain(l)})
		if !st.Overdue { // which is neither capacity nor in the way of other boots
			r.count[st.Phase]++
		}
		r.lastOn = later(r.lastOn, v.OnAt)
		r.lastOff = later(r.lastOff, v.OffAt)
	}
	slices.SortFunc(r.hosts, func(a, b host) int { return cmp.Compare(a.Status.ID, b.Status.ID) })
	for _, h := range r.hosts {
		r.d.Hosts = append(r.d.Hosts, h.Status)
	}
	r.d.Ready = r.count[Ready]
	return r
}

func statusOf(v View, now time.Time, l Limits) Status {
	p, why := PhaseOf(v, now, l)
	st := Status{ID: v.Host.ID, Phase: p, Why: why, GPUs: v.Host.GPUs, GPUsBusy: v.Node.GPUsBusy(), Power: v.power(now, l)}
	if p == Booting && v.overdue(now, l) {
		st.Overdue = true
		st.Why = fmt.Sprintf("took longer than %s to boot: %s", l.BootTimeout, why)
	}
	return st
}

// act adds an action and counts the host where the action leads, so that a
// place that one host leaves is free for another in the same decision.
func (r *reconciler) act(h *host, do Verb, why string) {
	r.record(h, do, why, h.Ledger.after(do, r.now))
}

func (r *reconciler) record(h *host, do Verb, why string, ledger Ledger) {
	h.busy = true
	if !h.Overdue {
		r.count[h.Phase]--
	}
	r.count[do.phase()]++
	r.d.Actions = append(r.d.Actions, Action{Host: h.Status.ID, Do: do, Why: why, Ledger: ledger})
}

// finish takes the next step of what is under way and depends on no count.
// Draining hosts come later, since demand may want them back.
func (r *reconciler) finish() {
	for i := range r.hosts {
		h := &r.hosts[i]
		if !h.free {
			continue
		}
		switch h.Phase {
		case Booting:
			if h.joined(r.now, r.l) && h.Node.GPUs >= h.Host.GPUs && (h.Verb != Enable || !h.Node.Eligible) {
				r.act(h, Enable, fmt.Sprintf("it has joined with %d GPUs", h.Node.GPUs))
			} else if h.Overdue {
				r.giveUp(h)
			}
		case Ready:
			// As long as the record does not say that it was given back, an
			// operator who makes it ineligible is taken for us.
			if h.Verb == Enable && !h.givenBack() {
				r.act(h, Enable, "it is not on record that it was given back")
			}
		case Stopping:
			r.pressOn(h)
		}
	}
}

// giveUp ends the boot of a host whose client has not registered in its time:
// it is made ineligible, so that a late client gets no work, and then powered
// off. One that joined without all of its GPUs stays on, for an operator to
// look at.
func (r *reconciler) giveUp(h *host) {
	if h.Verb != TurnOn || h.Node.Status == NodeReady || h.Node.Status == NodeInit || len(h.Node.Work) > 0 {
		return
	}
	ledger := h.Ledger
	ledger.FailedBoots++
	why := fmt.Sprintf("it did not boot within %s, %d times now", r.l.BootTimeout, ledger.FailedBoots)
	switch {
	case h.Node.Eligible:
		r.record(h, Cordon, why, ledger)
	case r.mayLosePower(h):
		r.softOff(h, why, ledger)
	}
}

// softOff asks a host to shut down, unless another one was asked a moment ago.
func (r *reconciler) softOff(h *host, why string, ledger Ledger) {
	if r.now.Sub(r.lastOff) >= r.l.Stagger {
		r.lastOff = r.now
		r.record(h, SoftOff, why, ledger.after(SoftOff, r.now))
	}
}

// pressOn deals with a host that was told to shut down and has not.
func (r *reconciler) pressOn(h *host) {
	if h.Verb == Cordon {
		if r.mayLosePower(h) {
			r.softOff(h, "it did not boot, and is ineligible", h.Ledger)
		}
		return
	}
	if r.now.Sub(h.Intent.At) < r.l.SoftOffTimeout {
		return
	}
	if !r.mayLosePower(h) {
		return
	}
	if h.Verb == SoftOff && h.SettledAt.IsZero() {
		r.softOff(h, "nobody knows whether it was asked to shut down", h.Ledger)
		return
	}
	// Of a host that did not boot there is nothing to lose.
	if r.l.HardOff || h.FailedBoots > 0 && h.Node.Status != NodeReady {
		r.act(h, HardOff, fmt.Sprintf("it did not shut down within %s", r.l.SoftOffTimeout))
		return
	}
	r.softOff(h, fmt.Sprintf("it did not shut down within %s, and hard off is not allowed", r.l.SoftOffTimeout), h.Ledger)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// mayLosePower looks at a host that is on its way off once more. One whose node
// is down need not have an agent that answers, but one that does is heard: an
// operating system can be up, and used, without a Nomad client.
func (r *reconciler) mayLosePower(h *host) bool {
	if len(h.Node.Work) > 0 || h.Node.Eligible || h.Node.Draining || !h.powerReadable(r.now, r.l) {
		return false
	}
	if idle, _ := h.idle(r.now, r.l); idle {
		return true
	}
	busy := r.l.Agent != AgentNone && h.agent(r.now, r.l) == AgentPassing && h.Agent.Outside > 0
	return h.Node.Status != NodeReady && !busy
}

// grow brings short more hosts into service: first those that are leaving and
// can be called back, because they are warm, then cold ones.
func (r *reconciler) grow(short int) {
	for _, h := range r.leaving() {
		if short == 0 {
			break
		}
		if h.free {
			r.act(h, Enable, "demand came back before it was off")
		}
		short-- // one that cannot be called back yet is waited for
	}
	r.drainOn()
	for _, h := range r.cold() {
		if short == 0 {
			return
		}
		if r.count[Booting] >= r.l.MaxBooting {
			r.d.Note = fmt.Sprintf("%d more wanted, but %d hosts boot already, the most allowed", short, r.count[Booting])
			return
		}
		if wait := r.l.Stagger - r.now.Sub(r.lastOn); wait > 0 {
			r.d.Note = fmt.Sprintf("%d more wanted, one is powered on every %s", short, r.l.Stagger)
			return
		}
		r.lastOn = r.now
		ledger := h.Ledger.after(TurnOn, r.now)
		ledger.FailedBoots = h.failures()
		r.record(h, TurnOn, fmt.Sprintf("%d wanted, %d in service or on their way", r.d.Want, r.d.Have), ledger)
		short--
	}
	if short > 0 {
		r.d.Note = fmt.Sprintf("%d more wanted, but no host is left to power on", short)
	}
}

// leaving lists the draining hosts, those first that can be called back now.
func (r *reconciler) leaving() []*host {
	var now, later []*host
	for i := range r.hosts {
		switch h := &r.hosts[i]; {
		case h.Phase != Draining:
		case h.free:
			now = append(now, h)
		default:
			later = append(later, h)
		}
	}
	return append(now, later...)
}

// cold lists the hosts that can be powered on, best first: those that boot,
// then those that were powered on the least today, which spreads the wear, then
// by ID.
func (r *reconciler) cold() []*host {
	var cold []*host
	for i := range r.hosts {
		h := &r.hosts[i]
		if h.Phase == Off && h.free && r.mayPowerOn(h) {
			cold = append(cold, h)
		}
	}
	slices.SortStableFunc(cold, func(a, b *host) int {
		return cmp.Or(
			cmp.Compare(a.failures(), b.failures()),
			cmp.Compare(a.cyclesToday(r.now), b.cyclesToday(r.now)),
		)
	})
	return cold
}

// mayPowerOn spaces the attempts on a host that does not power on, and keeps
// its budget.
func (r *reconciler) mayPowerOn(h *host) bool {
	if h.Verb == TurnOn && r.now.Sub(h.Intent.At) < r.l.PowerConfirm {
		return false
	}
	if r.l.CycleBudget > 0 && h.cyclesToday(r.now) >= r.l.CycleBudget {
		r.d.Note = fmt.Sprintf("%s was powered on %d times today, its budget", h.Status.ID, h.cyclesToday(r.now))
		return false
	}
	return true
}

// shrink takes surplus hosts out of service, and the ones that are leaving one
// step further.
func (r *reconciler) shrink() {
	r.drainOn()
	surplus := r.count[Ready] - r.d.Want
	for i := range slices.Backward(r.hosts) {
		h := &r.hosts[i]
		if surplus <= 0 || r.count[Draining] >= r.l.MaxDraining {
			return
		}
		if h.Phase != Ready || !h.free || h.busy || !h.powerReadable(r.now, r.l) {
			continue
		}
		if idle, why := h.idle(r.now, r.l); !idle {
			r.d.Note = fmt.Sprintf("%d more in service than wanted, but %s stays: %s", surplus, h.Status.ID, why)
			continue
		}
		if on := r.now.Sub(h.OnAt); !h.OnAt.IsZero() && on < r.l.MinOn {
			r.d.Note = fmt.Sprintf("%d more in service than wanted, but %s stays on for at least %s", surplus, h.Status.ID, r.l.MinOn)
			continue
		}
		r.act(h, Cordon, fmt.Sprintf("%d wanted, %d in service, and it has no work", r.d.Want, r.d.Ready))
		surplus--
	}
}

// drainOn takes each leaving host that is not called back one step further:
// drain, then soft off, each only if another look finds no work on it.
func (r *reconciler) drainOn() {
	for i := range r.hosts {
		h := &r.hosts[i]
		if h.Phase != Draining || !h.free || h.busy || h.Node.Draining || h.Node.Status != NodeReady {
			continue
		}
		idle, why := h.idle(r.now, r.l)
		switch {
		case len(h.Node.Work) > 0:
			r.act(h, Enable, "work landed on it before it was drained: "+why)
		case !idle:
			r.d.Note = fmt.Sprintf("%s cannot be powered off: %s", h.Status.ID, why)
		case !h.drained():
			r.act(h, Drain, "it is ineligible and has no work")
		case r.mayLosePower(h):
			r.softOff(h, "it is drained and has no work", h.Ledger)
		}
	}
}
