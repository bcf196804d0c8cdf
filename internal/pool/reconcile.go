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
	Watts    float64 // the most that it draws, by its class; 0 if off or not known
}

// Decision is the answer of one tick: what to do, and how things stand.
type Decision struct {
	// Want is what was asked for, with the hosts that are to be spare or to
	// stand by, corrected to the floor, the most allowed and the hosts there are.
	Want    int
	Have    int      // hosts that are in service or on their way
	Ready   int      // hosts that are in service
	Note    string   // why want cannot be met or undercut now; empty if it can
	Hosts   []Status // sorted by ID
	Actions []Action // sorted by host; at most one for each
	// Joined are the hosts that are seen for the first time to have joined
	// after their power-on, sorted. That is to be put on record at once: if one
	// is cut off again before it is whole, what runs on it may live.
	Joined []string
	// Stopped are the hosts that are seen off for the first time since they were
	// told to, sorted. That is to be put on record too: one that somebody else
	// powers on again is to be asked to shut down before its power is cut.
	Stopped []string
}

// Reconcile decides what to do at now so that the pool comes to want hosts in
// service. It depends on nothing but its arguments, on the order of what is in
// the snapshot not at all, and, applied again before anybody looked at what
// its actions did, it adds nothing.
func Reconcile(now time.Time, want int, s Snapshot, l Limits) Decision {
	r := newReconciler(now, s, l.Learn(s.Times))
	r.most = min(len(s.Hosts), l.Max)
	r.base = min(max(want+l.Spare, l.Min), r.most)
	r.d.Want = min(r.base+l.standby(), r.most)
	r.finish()
	r.obey()
	r.d.Have = r.have() // with those that come late, and without those that leave
	r.grow(s.Asks)
	r.drainOn()
	r.shrink()
	r.witness()
	r.d.Actions = r.actions()
	return r.d
}

// reconciler holds what the steps of one decision share.
type reconciler struct {
	now    time.Time
	today  string // as Ledger.CyclesOn has it
	l      Limits
	hosts  []*host // sorted by ID
	kinds  []*kind // sorted by name
	spoken []*host // those of which an operator said something
	cold   []*host // those that are off, in the line of onRules; nil until it is asked for
	d      Decision
	base   int // hosts that are wanted, besides those that stand by
	most   int // that may be in service or on their way

	ready    int // hosts in service
	coming   int // hosts on their way to it, in time
	booting  int // hosts that boot or may, for the most that do at once
	draining int // hosts that are seen to drain and are not an operator's
	doing    int // actions so far

	lastOn, lastOff time.Time // of any host of the pool
	full            string    // why no further host may be powered on now; empty if one may
}

// host is a view with its phase.
type host struct {
	*View
	Status

	// For the order in which hosts are taken: see order.go. They are worked out
	// once, since hosts are many and compared often.
	kind       *kind
	domain     *domain
	failed     int     // boots in a row
	cycles     int     // power-ons today
	efficiency float64 // watts per GPU in service; 0 if not known
	lost       float64 // GPU-hours that its work would lose
	index      int     // in the order of IDs
	tier       int     // in line, of those that the rules before spread tell apart
	level      int     // hosts that are on in its domain when its turn comes

	free    bool // last intent has been looked at since: something may be done
	busy    bool // this decision already does something to it
	comes   bool // it is in service, or on its way there in time
	called  bool // it is called back, now or as soon as it can be
	awaited bool // it fits work that waits

	passed string  // why it was passed over
	does   *Action // if it is busy
}

// kind is a class with what there is of it.
type kind struct {
	Class
	name     string
	idle     int     // hosts in service or coming that have no work
	standing int     // hosts in service that have none
	dry      drought // none if the provider is not known to have run out of it
}

// domain is what hosts share power in, and fail with.
type domain struct {
	on      int     // hosts that are not off for certain
	watts   float64 // what they draw at most
	budget  float64 // what they may draw
	limited bool    // they may not draw more
	level   int     // what on comes to while hosts are put in line
}

func newReconciler(now time.Time, s Snapshot, l Limits) *reconciler {
	r := &reconciler{now: now, today: date(now), l: l, hosts: make([]*host, len(s.Hosts))}
	kinds, domains := make(map[string]*kind), make(map[string]*domain)
	for name, dry := range droughts(s.Hosts, now, l) {
		r.kindOf(name, kinds).dry = dry
	}
	all := make([]host, len(s.Hosts))
	for i := range s.Hosts {
		v := &s.Hosts[i]
		h := &all[i]
		*h = host{
			View: v, Status: statusOf(v, now, l), kind: r.kindOf(v.Class, kinds), domain: r.domainOf(v.Domain, domains),
			free: v.lookedAgain(l), failed: v.failures(), cycles: v.cyclesOn(r.today),
		}
		h.efficiency = h.kind.RunWatts / float64(max(v.Host.GPUs, 1))
		r.hosts[i] = h
		r.enter(h, h.Phase, !h.Overdue)
		if !v.dark(h.Phase, now, l) {
			h.domain.on++
			h.domain.watts += h.Watts
		}
		if v.inRush(h.Phase, now, l) {
			r.booting++
		}
		r.lastOn = later(r.lastOn, v.OnAt)
		r.lastOff = later(r.lastOff, v.OffAt)
	}
	slices.SortFunc(r.hosts, func(a, b *host) int { return cmp.Compare(a.Status.ID, b.Status.ID) })
	r.d.Hosts = make([]Status, len(r.hosts))
	for i, h := range r.hosts {
		h.index = i
		r.d.Hosts[i] = h.Status
		if h.Said.Word != WordNone {
			r.spoken = append(r.spoken, h)
		}
	}
	slices.SortFunc(r.kinds, func(a, b *kind) int { return cmp.Compare(a.name, b.name) })
	r.d.Ready = r.ready
	return r
}

// kindOf is the class of a name among those known, or a new one.
func (r *reconciler) kindOf(name string, known map[string]*kind) *kind {
	k := known[name]
	if k == nil {
		k = &kind{Class: r.l.Classes[name], name: name}
		known[name] = k
		r.kinds = append(r.kinds, k)
	}
	return k
}

// domainOf is the domain of a name among those known, or a new one.
func (r *reconciler) domainOf(name string, known map[string]*domain) *domain {
	d := known[name]
	if d == nil {
		d = new(domain)
		d.budget, d.limited = r.l.Budgets[name]
		known[name] = d
	}
	return d
}

func statusOf(v *View, now time.Time, l Limits) Status {
	p, why := PhaseOf(v, now, l)
	st := Status{
		ID: v.Host.ID, Phase: p, Why: why, GPUs: v.Host.GPUs, GPUsBusy: v.Node.GPUsBusy(),
		Power: v.power(now, l), Class: v.Class, Watts: v.watts(p, now, l),
	}
	if p == Booting && v.overdue(now, l) {
		st.Overdue = true
		st.Why = fmt.Sprintf("took longer than %s to boot: %s", l.bootTimeout(v), why)
	}
	return st
}

// enter counts a host in the phase that it is in, or that it is led to.
func (r *reconciler) enter(h *host, p Phase, inTime bool) {
	h.comes = p == Ready || p == Booting && inTime // others are neither capacity nor in the way of other boots
	r.count(h, p, 1)
}

func (r *reconciler) count(h *host, p Phase, n int) {
	switch {
	case p == Draining && !h.Said.leave():
		r.draining += n
	case p == Ready:
		r.ready += n
	case h.comes:
		r.coming += n
	}
	if h.comes && !h.loaded() {
		h.kind.idle += n
	}
}

// await counts a host as on its way that can only be called back later.
func (r *reconciler) await(h *host) {
	h.comes = true
	r.coming++
	if !h.loaded() {
		h.kind.idle++
	}
}

// have is how many hosts are in service or on their way.
func (r *reconciler) have() int { return r.ready + r.coming }

// short is how many more hosts are wanted than there are, where those that
// stand by are none that are wanted for anything else. It says nothing of a
// class that has too few to stand by: other hosts are no help with that.
func (r *reconciler) short() int {
	standing := 0
	for _, k := range r.kinds {
		standing += min(k.Standby, k.idle)
	}
	return r.base - r.have() + standing
}

// act adds an action and counts the host where the action leads, so that a
// place that one host leaves is free for another in the same decision.
func (r *reconciler) act(h *host, do Verb, why string) {
	r.record(h, do, why, r.after(h, do))
}

// after is a host's ledger once do is done.
func (r *reconciler) after(h *host, do Verb) Ledger { return h.Ledger.after(do, r.now, r.today) }

func (r *reconciler) record(h *host, do Verb, why string, ledger Ledger) {
	h.busy = true
	if h.inRush(h.Phase, r.now, r.l) {
		r.booting--
	}
	r.count(h, h.Phase, -1)
	r.enter(h, do.phase(), true)
	if do.phase() == Booting {
		r.booting++
	}
	h.does = &Action{Host: h.Status.ID, Do: do, Why: why, Ledger: ledger}
	r.doing++
}

// actions are those of all hosts, sorted by host.
func (r *reconciler) actions() []Action {
	if r.doing == 0 {
		return nil
	}
	actions := make([]Action, 0, r.doing)
	for _, h := range r.hosts {
		if h.does != nil {
			actions = append(actions, *h.does)
		}
	}
	return actions
}

// note says why things stay as they are, unless something was said already.
func (r *reconciler) note(format string, args ...any) {
	if r.d.Note == "" {
		r.d.Note = fmt.Sprintf(format, args...)
	}
}

// finish takes the next step of what is under way and depends on no count.
// Draining hosts come later, since demand may want them back.
func (r *reconciler) finish() {
	for _, h := range r.hosts {
		if !h.free {
			continue
		}
		switch h.Phase {
		case Booting:
			if h.whole(r.now, r.l) && (h.Verb != Enable || !h.Node.Eligible) && !h.Said.leave() {
				r.act(h, Enable, fmt.Sprintf("it has joined with %d GPUs", h.Node.GPUs))
			} else if h.Overdue {
				r.giveUp(h)
			}
		case Ready:
			// If the record said of an ineligible node that it is still to be given
			// back, an operator who makes it ineligible again was taken for us.
			if h.Verb == Enable && !h.givenBack() && !h.Said.leave() {
				r.act(h, Enable, "it is not on record that it was given back")
			}
		case Stopping:
			r.pressOn(h)
		}
	}
}

// obey does what operators said of single hosts, as far as it takes nothing
// that others do not take as well: see [Word].
func (r *reconciler) obey() {
	for _, h := range r.spoken {
		switch {
		case !h.free || h.busy:
		case h.Said.Word == WordOn && h.Phase == Draining && h.Node.Status == NodeReady:
			r.act(h, Enable, h.Said.String())
		case h.Said.Word == WordOn && h.Phase == Off:
			if ok, why := r.mayPowerOn(h); !ok {
				r.note("%s stays off: %s", h.Status.ID, why)
			} else if !r.mayBootMore() {
				r.note("%s stays off: %s", h.Status.ID, r.full)
			} else {
				r.powerOn(h, h.Said.String())
			}
		case h.Said.Word != WordHold && h.Phase == Unknown, h.Said.Word == WordOn && h.Phase == Held:
			r.note("%s, but %s is %s: %s", h.Said, h.Status.ID, h.Phase, h.Status.Why)
		case h.Said.leave() && h.Self && (h.Phase == Ready || h.Phase == Draining):
			r.note("%s stays: %s", h.Status.ID, ownHost)
		case h.Said.leave() && h.Phase == Ready:
			r.act(h, Cordon, h.Said.String())
		}
	}
}

// ownHost is why a host is not taken out of service.
const ownHost = "the process that decides runs on it"

// giveUp ends the boot of a host whose client has not registered in its time:
// it is made ineligible, so that a late client gets no work, and then powered
// off. One that joined without all of its GPUs stays on, for an operator to
// look at.
func (r *reconciler) giveUp(h *host) {
	if h.Verb != TurnOn || h.Ledger.joined() || h.Node.Status == NodeReady || h.Node.Status == NodeInit || h.loaded() {
		return
	}
	ledger := h.Ledger
	ledger.FailedBoots++
	why := fmt.Sprintf("it did not boot within %s, %d times now", r.l.bootTimeout(h.View), ledger.FailedBoots)
	switch {
	case h.Self:
	case h.Node.Eligible:
		r.record(h, Cordon, why, ledger)
	case r.mayLosePower(h):
		r.off(h, SoftOff, why, ledger)
	}
}

// off tells a host to shut down, or cuts its power, unless that was done to
// another one a moment ago.
func (r *reconciler) off(h *host, how Verb, why string, ledger Ledger) {
	if r.now.Sub(r.lastOff) >= r.l.Stagger {
		r.lastOff = r.now
		r.record(h, how, why, ledger.after(how, r.now, r.today))
	}
}

// pressOn deals with a host that was told to shut down and has not.
func (r *reconciler) pressOn(h *host) {
	switch {
	case h.Self || !r.mayLosePower(h):
	case h.Verb == Cordon:
		r.off(h, SoftOff, "it did not boot, and is ineligible", h.Ledger)
	case r.now.Sub(h.Intent.At) < r.l.SoftOffTimeout:
	case h.stopped():
		r.off(h, SoftOff, "somebody else powered it on again", h.Ledger)
	case h.Verb == SoftOff && h.SettledAt.IsZero():
		r.off(h, SoftOff, "nobody knows whether it was asked to shut down", h.Ledger)
	case r.l.HardOff || h.FailedBoots > 0 && h.Node.Status != NodeReady: // of one that did not boot there is nothing to lose
		r.off(h, HardOff, fmt.Sprintf("it did not shut down within %s", r.l.SoftOffTimeout), h.Ledger)
	default:
		r.off(h, SoftOff, fmt.Sprintf("it did not shut down within %s, and hard off is not allowed", r.l.SoftOffTimeout), h.Ledger)
	}
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
	if h.loaded() || h.Node.Eligible || h.Node.Draining || !h.powerReadable(r.now, r.l) {
		return false
	}
	if h.View.idle(r.now, r.l) {
		return true
	}
	busy := r.l.Agent != AgentNone && h.agent(r.now, r.l) == AgentPassing && h.Agent.Outside > 0
	return h.Node.Status != NodeReady && !busy
}

// drainOn takes each leaving host that is not called back one step further:
// drain, then soft off, each only after another look.
func (r *reconciler) drainOn() {
	for _, h := range r.hosts {
		if h.Phase != Draining || !h.free || h.busy || h.Node.Draining || h.Node.Status != NodeReady {
			continue
		}
		movable, stays := h.movable(r.l)
		unused, used := h.unused(r.now, r.l)
		switch {
		case h.Self && !h.Said.leave():
			r.act(h, Enable, ownHost)
		case h.Self: // obey said so
		case !movable:
			r.act(h, Enable, "work landed on it before it was drained: "+stays)
		case h.drained() && h.loaded():
			r.note("%s cannot be powered off: its drain has ended, and it still runs %s", h.Status.ID, h.Node.Work[0])
		case h.mute(r.now, r.l) && !h.Said.leave():
			r.act(h, Enable, fmt.Sprintf("its agent is %s for longer than %s, and Nomad starts none on a host that is out of service", h.agent(r.now, r.l), r.l.BootTimeout))
		case !unused && !h.Said.leave(), !unused && h.drained():
			r.note("%s cannot be powered off: %s", h.Status.ID, used)
		case !h.drained() && h.loaded():
			r.act(h, Drain, fmt.Sprintf("it is ineligible, and its work may be moved: %s%s", h.Node.Work[0], more(len(h.Node.Work)-1)))
		case !h.drained():
			r.act(h, Drain, "it is ineligible and has no work")
		case h.tooYoung(r.now, r.l) && !h.Said.leave(): // an operator wanted it out, and took that back
			r.act(h, Enable, fmt.Sprintf("it is on for at least %s", r.l.MinOn))
		case r.mayLosePower(h):
			r.off(h, SoftOff, "it is drained and has no work", h.Ledger)
		}
	}
}

// witness names the hosts that joined without being given back at once, which
// are those whose GPUs are not all there, and those that somebody holds, which
// may have got work before that; and the hosts that went off.
func (r *reconciler) witness() {
	for _, h := range r.hosts {
		if !h.free || h.busy {
			continue
		}
		switch h.Verb {
		case TurnOn:
			if (h.Phase == Booting || h.Phase == Held) && !h.Ledger.joined() && h.View.joined(r.now, r.l) {
				r.d.Joined = append(r.d.Joined, h.Status.ID)
			}
		case SoftOff, HardOff:
			if !h.stopped() && h.readOff(r.now, r.l) {
				r.d.Stopped = append(r.d.Stopped, h.Status.ID)
			}
		}
	}
}
