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
	r.d.Want = min(max(want, l.Min), len(s.Hosts))
	r.finish()
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
	count [Held + 1]int
	d     Decision
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
		switch {
		case st.Overdue: // neither capacity nor in the way of other boots
		default:
			r.count[st.Phase]++
		}
	}
	slices.SortFunc(r.hosts, func(a, b host) int { return cmp.Compare(a.Status.ID, b.Status.ID) })
	for _, h := range r.hosts {
		r.d.Hosts = append(r.d.Hosts, h.Status)
	}
	r.d.Ready = r.count[Ready]
	r.d.Have = r.count[Ready] + r.count[Booting]
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
	h.busy = true
	if !h.Overdue {
		r.count[h.Phase]--
	}
	r.count[do.phase()]++
	r.d.Actions = append(r.d.Actions, Action{Host: h.Status.ID, Do: do, Why: why})
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
			if h.joined() && h.Node.GPUs >= h.Host.GPUs && (h.Verb != Enable || !h.Node.Eligible) {
				r.act(h, Enable, fmt.Sprintf("it has joined with %d GPUs", h.Node.GPUs))
			}
		case Stopping:
			r.pressOn(h)
		}
	}
}

// pressOn deals with a host that was told to shut down and has not.
func (r *reconciler) pressOn(h *host) {
	if r.now.Sub(h.Intent.At) < r.l.SoftOffTimeout {
		return
	}
	if !r.mayLosePower(h) {
		return
	}
	if r.l.HardOff {
		r.act(h, HardOff, fmt.Sprintf("it did not shut down within %s", r.l.SoftOffTimeout))
		return
	}
	r.act(h, SoftOff, fmt.Sprintf("it did not shut down within %s, and hard off is not allowed", r.l.SoftOffTimeout))
}

// mayLosePower looks at a host that is on its way off once more. A node that
// is down already has no agent left to ask.
func (r *reconciler) mayLosePower(h *host) bool {
	if len(h.Node.Work) > 0 || h.Node.Eligible || h.Node.Draining || !h.powerReadable(r.now, r.l) {
		return false
	}
	idle, _ := h.idle(r.now, r.l)
	return idle || h.Node.Status != NodeReady
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
		r.act(h, TurnOn, fmt.Sprintf("%d wanted, %d in service or on their way", r.d.Want, r.d.Have))
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

// cold lists the hosts that can be powered on, best first: those whose last
// power-on did not fail, then by ID, so that the same few hosts carry a small
// load and the others stay off.
func (r *reconciler) cold() []*host {
	var cold []*host
	for i := range r.hosts {
		h := &r.hosts[i]
		if h.Phase == Off && h.free && r.mayRetry(h) {
			cold = append(cold, h)
		}
	}
	slices.SortStableFunc(cold, func(a, b *host) int {
		return cmp.Compare(a.lastPowerOnFailed(), b.lastPowerOnFailed())
	})
	return cold
}

// lastPowerOnFailed is 1 for a host that is off although the last thing done
// to it was to power it on.
func (h *host) lastPowerOnFailed() int {
	if h.Verb == TurnOn {
		return 1
	}
	return 0
}

// mayRetry spaces the attempts on a host that does not power on.
func (r *reconciler) mayRetry(h *host) bool {
	return h.Verb != TurnOn || r.now.Sub(h.Intent.At) >= r.l.PowerConfirm
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
		if h.Phase != Ready || !h.free || !h.powerReadable(r.now, r.l) {
			continue
		}
		if idle, why := h.idle(r.now, r.l); !idle {
			r.d.Note = fmt.Sprintf("%d more in service than wanted, but %s stays: %s", surplus, h.Status.ID, why)
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
			r.act(h, SoftOff, "it is drained and has no work")
		}
	}
}
