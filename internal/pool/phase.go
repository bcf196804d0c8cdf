package pool

import (
	"fmt"
	"time"
)

// Phase is where a host stands. It is derived by [PhaseOf] at every tick and
// never stored.
//
//	           TurnOn            Enable, GPUs and agent there
//	   Off ─────────────► Booting ─────────────► Ready
//	    ▲                    ▲                     │ Cordon
//	    │ chassis reads off  │ Enable              ▼
//	Stopping ◄───────────────┼──────────────── Draining
//	 │          SoftOff      └─────────────────────┘
//	 │ after failed boots
//	 ▼
//	Quarantined, for a while, then Off
//
// Unknown and Held can be entered from anywhere and are left by themselves as
// soon as what is seen no longer says so.
type Phase int

const (
	// Unknown means that what is seen is old, missing, or contradicts itself.
	// Nothing is done to the host and it does not count as capacity. It ends
	// when a fresh and consistent sight arrives.
	Unknown Phase = iota
	// Off is a chassis that is off. The host is there to be powered on. It ends
	// with TurnOn.
	Off
	// Booting is a host that was told to power on and is not in service yet:
	// the chassis, the Nomad node, its GPUs or its agent are still missing. Once
	// the node is ready with all its GPUs it is made eligible. It ends in
	// service; or, past the boot timeout, it no longer counts as capacity, and
	// one whose client never registered is made ineligible and powered off.
	Booting
	// Ready is in service: the node is ready and eligible. It ends when the host
	// is chosen to go off, which takes a surplus and a host without work, or with
	// work that may be moved; or when an operator wants it out.
	Ready
	// Draining is a host that we took out of service and are emptying. First it
	// is only ineligible; then, looked at again and found without work that must
	// stay, drained; then, looked at once more and without any, told to shut
	// down. Demand that comes back ends it with Enable.
	Draining
	// Stopping is a host that was told to shut down and can no longer be called
	// back. It ends when the chassis reads off.
	Stopping
	// Held is a host that an operator's word keeps as it is, out of service or
	// off, or that an operator, or another tool, drained or made ineligible in
	// Nomad. It is never touched and does not count as capacity. It ends when
	// the word is taken back, or that hand away.
	Held
	// Quarantined is off, after failed boots. It is not powered on until its
	// back-off, which doubles with each failure, has passed; then it is Off,
	// and the last to be chosen. An operator who wants it on ends it at once.
	Quarantined
)

func (p Phase) String() string {
	return name(int(p), "unknown", "off", "booting", "ready", "draining", "stopping", "held", "quarantined")
}

// PhaseOf derives a host's phase, and says why in words that do not change
// while the phase and its cause do not.
//
// An intent that nobody has looked at since decides alone: what was seen
// before an act says nothing of its effect, and a host that was just cordoned
// must not be counted as in service because the sight is a second old.
func PhaseOf(v *View, now time.Time, l Limits) (Phase, string) {
	if v.Said.Word == WordHold {
		return Held, v.Said.String()
	}
	if !v.lookedAgain(l) {
		return v.Verb.phase(), fmt.Sprintf("%s sent, not looked at since", v.Verb)
	}
	if v.Node.Status == NodeUnknown || now.Sub(v.NodeAt) > l.StaleAfter {
		return Unknown, or(v.Node.Problem, "Nomad was not read lately")
	}
	if held, why := v.held(); held && !v.Said.leave() {
		return Held, why
	}
	switch v.power(now, l) {
	case PowerOff:
		return v.phaseOff(now, l)
	case PowerOn:
		return v.phaseOn(now, l)
	}
	why := "chassis power was not read lately"
	if v.PowerErr != "" {
		why = "chassis power cannot be read: " + v.PowerErr
	}
	if v.Verb == TurnOn && v.Err == "" && !v.overdue(now, l) && !v.Ledger.joined() {
		// Controllers are slow while their host starts. It was told, and did
		// not refuse.
		return Booting, "told to power on; " + why
	}
	return Unknown, why
}

// phase is the phase that a verb leads to.
func (v Verb) phase() Phase {
	switch v {
	case TurnOn, Enable:
		return Booting
	case Cordon, Drain:
		return Draining
	case SoftOff, HardOff:
		return Stopping
	}
	return Unknown
}

// settled is the moment from which a sight can show the last intent's effect.
func (i Intent) settled(l Limits) time.Time {
	switch {
	case i.SettledAt.IsZero():
		return i.At.Add(l.Fence)
	case i.Ambiguous:
		// The command was sent at some time before; how late it is carried
		// out counts from when we gave it up.
		return i.SettledAt.Add(l.Fence)
	}
	return i.SettledAt
}

// lookedAgain reports whether both the node and the power were read after the
// last intent had settled. Power that cannot be read counts as read: the
// attempt is what matters, and the phase will be Unknown for its own reason.
func (v *View) lookedAgain(l Limits) bool {
	if v.Verb == VerbNone {
		return true
	}
	t := v.Intent.settled(l)
	return v.NodeAt.After(t) && v.PowerAt.After(t)
}

// power is the chassis power as far as fresh evidence goes. A node that
// heart-beats proves that its chassis is on, whatever the BMC fails to say.
func (v *View) power(now time.Time, l Limits) Power {
	if now.Sub(v.PowerAt) <= l.StaleAfter && v.Power != PowerUnknown {
		return v.Power
	}
	if v.Node.Status == NodeReady {
		return PowerOn
	}
	return PowerUnknown
}

// powerReadable reports whether the BMC itself answered lately: without that
// a host must not be taken out of service, since it could not be powered off.
func (v *View) powerReadable(now time.Time, l Limits) bool {
	return v.Power != PowerUnknown && now.Sub(v.PowerAt) <= l.StaleAfter
}

// held reports whether a node is out of service by a hand that is not ours.
func (v *View) held() (bool, string) {
	n := v.Node
	if n.Status == NodeAbsent || n.Eligible && !n.Draining {
		return false, ""
	}
	if n.Mark == MarkForeign && (n.Draining || v.Verb != VerbNone && !v.Intent.Foreign) {
		return true, "drained by somebody else"
	}
	if n.Mark == MarkOurs {
		return false, ""
	}
	if v.Intent.Held {
		return true, "made ineligible by somebody else"
	}
	switch v.Verb {
	case Cordon, Drain, SoftOff, HardOff:
		// We took it out of service; a drain that the client did by itself while
		// shutting down hides our mark.
		return false, ""
	case TurnOn:
		if !v.Intent.Eligible {
			return false, "" // it was powered on as it was
		}
	case Enable:
		if !v.givenBack() && !v.Intent.Eligible {
			return false, "" // it did not work yet
		}
	}
	return true, "made ineligible by somebody else"
}

// givenBack reports whether the last intent gave the host back, and is known to
// have.
func (v *View) givenBack() bool {
	return v.Verb == Enable && v.Err == "" && !v.Ambiguous && !v.SettledAt.IsZero()
}

func (v *View) phaseOff(now time.Time, l Limits) (Phase, string) {
	since := now.Sub(v.Intent.At)
	stopped := v.Verb == SoftOff || v.Verb == HardOff
	switch {
	case v.Verb == TurnOn && v.Err == "" && since < l.PowerConfirm:
		return Booting, "told to power on, chassis still reads off"
	case v.Node.Status == NodeReady && !(stopped && since < l.SoftOffTimeout):
		// Either Nomad has not missed it yet, or this BMC belongs to another
		// machine. Both are a reason to keep still.
		return Unknown, "chassis reads off, but its Nomad node heart-beats"
	}
	if v.Said.leave() {
		return Held, v.Said.String()
	}
	if n := v.failures(); n >= 2 && !v.calledFor() {
		if until := v.Intent.At.Add(backOff(v.Host.ID, n)); now.Before(until) {
			return Quarantined, fmt.Sprintf("failed to boot %d times; to be tried again after %s", n, until.UTC().Format("15:04 UTC"))
		}
	}
	return Off, ""
}

// calledFor reports whether an operator asked for the host since the last act
// on it, who may know that what ailed it was mended.
func (v *View) calledFor() bool {
	return v.Said.Word == WordOn && v.Said.At.After(v.Intent.At)
}

// failures counts the boots that failed, with a power-on that the chassis has
// not followed.
func (v *View) failures() int {
	if v.Verb == TurnOn && !v.NoCapacity {
		return v.FailedBoots + 1
	}
	return v.FailedBoots
}

func (v *View) phaseOn(now time.Time, l Limits) (Phase, string) {
	since := now.Sub(v.Intent.At)
	if v.Verb == SoftOff || v.Verb == HardOff {
		if v.Node.Status == NodeReady && v.Node.Eligible && since > l.SoftOffTimeout {
			return Ready, "it was made eligible while it was to shut down"
		}
		return Stopping, "shutting down"
	}
	switch v.Node.Status {
	case NodeReady:
		return v.phaseJoined(now, l)
	case NodeInit:
		return Booting, "its Nomad node is registering"
	}
	if v.Verb == TurnOn && !v.NoCapacity && !v.Ledger.joined() || v.Verb == Enable && since < l.bootTimeout(v) {
		return Booting, "waiting for its Nomad node"
	}
	if v.Verb == Cordon && v.FailedBoots > 0 {
		return Stopping, "did not boot, about to be powered off"
	}
	return Unknown, fmt.Sprintf("chassis is on, but its Nomad node is %s", v.Node.Status)
}

// phaseJoined is the phase of a host whose node heart-beats and is not held.
func (v *View) phaseJoined(now time.Time, l Limits) (Phase, string) {
	missing := v.missing(now, l)
	switch {
	case !v.joined(now, l):
		return Booting, "waiting for its Nomad node, which Nomad remembers from before the power-on"
	case v.Said.leave():
		return v.phaseLeaving()
	case v.Verb == TurnOn:
		return Booting, or(missing, "its node has joined")
	case !v.Node.Eligible || v.Node.Draining:
		if v.Verb == Enable {
			return Booting, "its node is not eligible yet"
		}
		return Draining, v.drainingWhy()
	case missing != "" && v.Verb == Enable && now.Sub(v.Intent.At) < l.bootTimeout(v):
		return Booting, missing
	}
	return Ready, missing
}

// phaseLeaving is the phase of a joined host that an operator wants out of
// service.
func (v *View) phaseLeaving() (Phase, string) {
	switch {
	case v.Node.Eligible && !v.Node.Draining:
		return Ready, v.Said.String()
	case v.Said.Word == WordDrain && v.emptied():
		return Held, v.Said.String()
	}
	return Draining, v.drainingWhy()
}

func (v *View) drainingWhy() string {
	switch {
	case v.Node.Draining:
		return "draining" + v.loadWhy()
	case v.drained():
		return "drained" + v.loadWhy()
	}
	return "ineligible, about to be drained"
}

// loadWhy says what a host that is on its way out still runs.
func (v *View) loadWhy() string {
	if n := len(v.Node.Work); n > 0 {
		return ", still runs " + v.Node.Work[0].String() + more(n-1)
	}
	return ""
}

// joined reports whether the host's Nomad client has registered. Nomad goes on
// calling a node ready until it misses a heartbeat, so a host that was off for
// a moment shows the readiness of its former life; what tells them apart is
// that the node has changed since the power-on. One that is called ready all
// the time that a boot may take was up all along, whatever its BMC said.
func (v *View) joined(now time.Time, l Limits) bool {
	former := v.Verb == TurnOn && v.Node.Index != 0 && v.Node.Index <= v.Intent.NodeIndex && !v.overdue(now, l)
	return v.Node.Status == NodeReady && !former
}

// whole reports whether the host's client has registered, with all its GPUs.
func (v *View) whole(now time.Time, l Limits) bool {
	return v.joined(now, l) && v.Node.GPUs >= v.Host.GPUs
}

// drained reports whether our drain came to its end. A mark can be that of an
// earlier drain, where the node was eligible again before we gave it back: if
// nobody knows whether the last drain began, the node must have changed since.
func (v *View) drained() bool {
	unsure := v.Verb == Drain && (v.SettledAt.IsZero() || v.Err != "")
	if unsure && v.Node.Index != 0 && v.Node.Index <= v.Intent.NodeIndex {
		return false
	}
	return v.Node.Mark == MarkOurs && !v.Node.Draining && v.Verb != Cordon
}

// missing says what a joined host still lacks to be whole; empty if nothing.
func (v *View) missing(now time.Time, l Limits) string {
	switch {
	case v.Node.GPUs < v.Host.GPUs:
		return fmt.Sprintf("%d of %d GPUs are healthy", v.Node.GPUs, v.Host.GPUs)
	case l.Agent == AgentRequired && v.agent(now, l) != AgentPassing:
		return "its agent is " + v.agent(now, l).String()
	}
	return ""
}

// agent is the agent's status as far as fresh evidence goes.
func (v *View) agent(now time.Time, l Limits) AgentStatus {
	if now.Sub(v.AgentAt) > l.StaleAfter {
		return AgentUnknown
	}
	return v.Agent.Status
}

// tooYoung reports whether a host was not on for its least time yet.
func (v *View) tooYoung(now time.Time, l Limits) bool {
	return !v.OnAt.IsZero() && now.Sub(v.OnAt) < l.MinOn
}

// overdue reports whether a booting host took longer than it may.
func (v *View) overdue(now time.Time, l Limits) bool {
	return now.Sub(v.Intent.At) >= l.bootTimeout(v)
}

// movable reports whether all work on a host may be moved away by a drain, as
// it is when there is none; and if not, what must stay.
func (v *View) movable(l Limits) (bool, string) {
	if v.Said.leave() || l.DrainWork == DrainAll {
		return true, ""
	}
	for i, a := range v.Node.Work {
		if l.DrainWork != DrainServices || a.Type != service {
			return false, fmt.Sprintf("it runs %s%s", a, more(len(v.Node.Work)-i-1))
		}
	}
	return true, ""
}

// unused reports whether nobody uses a host's GPUs outside Nomad, as far as
// its agent has to be asked; and if not, or if nobody knows, why.
func (v *View) unused(now time.Time, l Limits) (bool, string) {
	passing := v.agent(now, l) == AgentPassing
	switch {
	case l.Agent == AgentNone, l.Agent == AgentOptional && !passing:
		return true, ""
	case !passing:
		return false, "its agent is " + v.agent(now, l).String() + ", so nobody knows whether its GPUs are idle"
	case v.Agent.Outside > 0:
		return false, fmt.Sprintf("%d of its GPUs are busy outside Nomad", v.Agent.Outside)
	case l.Agent == AgentRequired && v.Agent.Blind != "":
		return false, "its agent cannot tell whether its GPUs are idle: " + v.Agent.Blind
	}
	return true, ""
}

// mute reports whether a host that is out of service has nobody who could say that
// its GPUs are idle, and time enough was given to say it. Its agent is a system job,
// as a rule, and Nomad ends those where heart-beats are missed and starts them only
// on nodes that are eligible: without help such a host would stay on for ever.
func (v *View) mute(now time.Time, l Limits) bool {
	return l.Agent == AgentRequired && v.agent(now, l) != AgentPassing && now.Sub(v.Intent.At) >= l.BootTimeout
}

// idle reports whether a host could lose its power without losing anything.
func (v *View) idle(now time.Time, l Limits) bool {
	unused, _ := v.unused(now, l)
	return unused && len(v.Node.Work) == 0
}

func more(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" and %d more", n)
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
