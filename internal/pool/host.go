// Package pool decides which hosts of one pool to power on, drain and power
// off, one tick at a time. It is pure: it takes the time and a snapshot of
// what was seen, and returns actions that leave nothing to choose when they
// are carried out.
//
// A host's phase is never stored. [PhaseOf] derives it from what is seen plus
// the last recorded intent, so a crash between any two steps is repaired by
// the next tick. [Reconcile] turns phases and a wanted count into actions, and
// [Check] states the safety laws once more, independently, for the live loop,
// the simulator and the tests to run before anything is done.
package pool

import (
	"fmt"
	"slices"
	"time"
)

// Host is a configured host: what the inventory says, not what is seen.
type Host struct {
	ID       string // unique in the pool; the name that operators use
	NodeName string // name of its Nomad node
	GPUs     int    // GPUs that a healthy host fingerprints
	// Class is the name of its [Class]; empty for a pool of one kind.
	Class string
	// Domain is what fails, or runs short of power, together: a rack, a row, a
	// zone. Empty if not known, which is a domain of its own.
	Domain string
}

// Class is what hosts of one kind have in common. Everything in it may be
// unknown, which is its zero value.
type Class struct {
	// BootWatts is the peak draw of one host while it boots, RunWatts that of
	// one in service under load. Unknown draw counts against no budget.
	BootWatts, RunWatts float64
	// Cost is the price of an hour on, in a unit that all classes of the pool
	// share. Hosts that are owned cost their energy.
	Cost float64
	// Spot hosts can be taken away by their provider at any time.
	Spot bool
	// Standby is how many hosts of this class are kept in service without
	// work, so that a job that only they fit starts at once.
	Standby int
	// BootTimeout overrides [Limits.BootTimeout] for slower or faster kinds.
	BootTimeout time.Duration
}

// Power is what a host's power driver says of the chassis.
type Power int

// What a chassis can be.
const (
	PowerUnknown Power = iota // not read, not readable, or not one of the two below
	PowerOff                  // the chassis is off
	PowerOn                   // the chassis is on; says nothing of what runs on it
)

func (p Power) String() string { return name(int(p), "unknown", "off", "on") }

// NodeStatus is the state of a host's Nomad node.
type NodeStatus int

// What a node can be.
const (
	NodeUnknown NodeStatus = iota // Nomad was not read
	NodeAbsent                    // Nomad answered and has no node of this name
	NodeDown                      // missed its heartbeat, or disconnected
	NodeInit                      // registered, not ready yet
	NodeReady                     // heart-beats
)

func (s NodeStatus) String() string {
	return name(int(s), "unknown", "absent", "down", "initializing", "ready")
}

// Mark says whose hand is on a node's last drain. Nomad keeps a drain's
// metadata with the node across power cycles, so a mark outlives us.
type Mark int

// Whose a mark can be.
const (
	MarkNone     Mark = iota // never drained, or not by anyone who left a name
	MarkOurs                 // drained by this pool and not given back since
	MarkReleased             // drained by this pool and given back
	MarkForeign              // drained by an operator or another tool
)

func (m Mark) String() string { return name(int(m), "none", "ours", "released", "foreign") }

// Node is what Nomad says of a host.
type Node struct {
	ID      string
	Status  NodeStatus
	Problem string // why Status is NodeUnknown although Nomad was read, for an operator to mend
	// Index is Nomad's index of the last change of the node, 0 if not known.
	// It rises when the client registers anew, and not with its heartbeats.
	Index    uint64
	Eligible bool
	Draining bool // a drain is in progress
	Mark     Mark
	GPUs     int     // healthy GPUs fingerprinted
	Work     []Alloc // non-terminal allocations other than system and sysbatch, sorted by ID
}

// GPUsBusy is the number of GPUs that the node's work holds.
func (n Node) GPUsBusy() int {
	busy := 0
	for _, a := range n.Work {
		busy += a.GPUs
	}
	return busy
}

// Alloc is one allocation that would be lost if its host went off now.
type Alloc struct {
	ID   string
	Job  string
	Type string // Nomad's job type: service or batch
	GPUs int
	// Since is when it was placed, which is how much of it would be lost. Zero
	// if not known, which counts as long ago.
	Since time.Time
}

// service is Nomad's type of jobs whose allocations a drain moves before it
// stops them.
const service = "service"

func (a Alloc) String() string { return fmt.Sprintf("%s of job %s", a.ID, a.Job) }

// Agent is what the gpupool agent on the host says.
type Agent struct {
	Status AgentStatus
	// Outside is the number of GPUs that run compute processes of no
	// allocation; at least so many if Blind. Like Blind, it is meaningful only
	// when Status is AgentPassing.
	Outside int
	// Blind is why the agent cannot tell whether more GPUs than that are busy
	// outside Nomad; empty if it can.
	Blind string
}

// AgentStatus is the health of the agent on a host, as Consul and the agent
// itself answer.
type AgentStatus int

// What an agent can be.
const (
	AgentUnknown AgentStatus = iota // nothing known: not asked, or no answer
	AgentFailing                    // registered in Consul, not passing
	AgentPassing                    // passing in Consul and its snapshot was read
)

func (s AgentStatus) String() string { return name(int(s), "unknown", "failing", "passing") }

// Seen is what one sweep of observation found about one host. Each time is
// when the reading began, so a reading that began after an action has seen
// its effect.
type Seen struct {
	Power    Power
	PowerAt  time.Time
	PowerErr string // why Power is unknown
	Node     Node
	NodeAt   time.Time
	Agent    Agent
	AgentAt  time.Time
	// Self is set when the process that decides runs on this host. It is never
	// taken out of service: nobody would be left to bring it back.
	Self bool
}

// Word is what an operator said about one host. It stands until the operator
// takes it back.
//
// It goes before what is wanted, the floor, the most in service, the least
// time on, the most that drain, what work may be moved, and, if it is newer
// than the last failure, a quarantine. It does not go before what keeps work
// and racks safe: no power is cut under work that a drain has not moved or
// under GPUs that are busy outside Nomad, nothing is done on old sight, power
// budgets, the most that boot, stagger and cycle budgets are kept, another
// hand's drain that is going on is let alone, and so is the host on which the
// process that decides runs.
type Word int

// What an operator can say.
const (
	WordNone  Word = iota // nothing: the pool decides
	WordHold              // leave it as it is: it is Held, whatever is seen
	WordDrain             // take it out of service, with its work, and leave it on
	WordOff               // take it out of service, with its work, and keep it off
	WordOn                // power it on and keep it in service, wanted or not
)

var words = []string{"none", "hold", "drain", "off", "on"}

func (w Word) String() string { return name(int(w), words...) }

// MarshalText writes the word's name, so that stored words read well.
func (w Word) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (w *Word) UnmarshalText(text []byte) error {
	for i, s := range words {
		if s == string(text) {
			*w = Word(i)
			return nil
		}
	}
	return fmt.Errorf("unknown word %q: one of hold, drain, off, on", text)
}

// Said is an operator's word on a host, with who said it and why.
type Said struct {
	Word   Word      `json:"word"`
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`

	// Rev is the store's revision of this record, for check-and-set.
	Rev uint64 `json:"-"`
}

// String is the word with who said it and why, as it is shown.
func (s Said) String() string {
	return fmt.Sprintf("%s says %s: %s", or(s.By, "an operator"), s.Word, or(s.Reason, "no reason given"))
}

// leave reports whether an operator wants the host out of service.
func (s Said) leave() bool { return s.Word == WordDrain || s.Word == WordOff }

// Verb is one thing that can be done to a host.
type Verb int

// What can be done.
const (
	VerbNone Verb = iota
	TurnOn        // power the chassis on
	Enable        // make the node eligible and stamp our mark as released
	Cordon        // make the node ineligible
	Drain         // drain the node, leaving our mark
	SoftOff       // ask the operating system to shut down
	HardOff       // cut the power
)

var verbs = []string{"none", "power-on", "enable", "cordon", "drain", "soft-off", "hard-off"}

func (v Verb) String() string { return name(int(v), verbs...) }

// MarshalText writes the verb's name, so that stored intents read well and
// survive a renumbering.
func (v Verb) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (v *Verb) UnmarshalText(text []byte) error {
	for i, s := range verbs {
		if s == string(text) {
			*v = Verb(i)
			return nil
		}
	}
	return fmt.Errorf("unknown verb %q", text)
}

// Intent is the last thing that we recorded for a host, before doing it, and
// how that ended. It is the only memory the pool has of a host.
type Intent struct {
	Verb Verb      `json:"verb"`
	Why  string    `json:"why"`
	At   time.Time `json:"at"`  // when it was decided
	Gen  uint64    `json:"gen"` // generation of the lease it was recorded under
	// NodeIndex is Node.Index as it was seen before the act.
	NodeIndex uint64 `json:"node_index,omitempty"`
	// Foreign is set when the node's last drain was somebody else's already
	// before the act. One that appears later is a hand that came since.
	Foreign bool `json:"foreign,omitempty"`
	// Held is set when another hand kept the node out of service before the
	// act, which an operator's word went before. It is respected again when the
	// word is taken back, unless a drain of ours has taken its place.
	Held bool `json:"held,omitempty"`
	// Eligible is set when the node was eligible before the act, or not known
	// to Nomad, where new nodes are: a power-on makes none ineligible.
	Eligible bool `json:"eligible,omitempty"`

	Ledger

	// SettledAt is when the outcome was recorded; zero while it is open. A
	// crash between recording and acting leaves it zero for ever, so an open
	// intent is as good as an ambiguous one.
	SettledAt time.Time `json:"settled_at,omitzero"`
	// Err is why the act failed; empty if it did not.
	Err string `json:"err,omitempty"`
	// Ambiguous is set when nobody knows whether the act happened or may
	// still happen: a BMC can execute a command that timed out seconds later.
	Ambiguous bool `json:"ambiguous,omitempty"`
	// NoCapacity is set when a power-on was refused because the provider has
	// no host of this kind to give.
	NoCapacity bool `json:"no_capacity,omitempty"`

	// Rev is the store's revision of this record, for check-and-set. Zero
	// means that there is no record yet.
	Rev uint64 `json:"-"`
}

// Intend is what is recorded before an action on the host is carried out, at
// a time and under a generation of the lease.
func (v *View) Intend(a Action, at time.Time, gen uint64) Intent {
	held, _ := v.held()
	return Intent{
		Verb: a.Do, Why: a.Why, At: at, Gen: gen, NodeIndex: v.Node.Index,
		Foreign:  v.Node.Mark == MarkForeign,
		Held:     held,
		Eligible: v.Node.Eligible || v.Node.Status == NodeAbsent,
		Ledger:   a.Ledger, Rev: v.Rev,
	}
}

// Ledger is what is carried from a host's one intent to the next.
type Ledger struct {
	OnAt  time.Time `json:"on_at,omitzero"`  // when it was last told to power on
	OffAt time.Time `json:"off_at,omitzero"` // when it was last told to go off
	// JoinedAt is when its Nomad client was first seen to have registered
	// after a power-on; before OnAt if it has not since the last one.
	JoinedAt time.Time `json:"joined_at,omitzero"`
	// StoppedAt is when its chassis was first seen off after it was told to go
	// off; before OffAt if it has not since the last time.
	StoppedAt time.Time `json:"stopped_at,omitzero"`
	// FailedBoots counts the power-ons in a row that did not end in service.
	FailedBoots int `json:"failed_boots,omitempty"`
	// Cycles counts the power-ons of the day CyclesOn, a date in UTC.
	Cycles   int    `json:"cycles,omitempty"`
	CyclesOn string `json:"cycles_on,omitempty"`
	// Refusals counts the power-ons in a row that the provider refused hosts of
	// this class for want of capacity, before the last one.
	Refusals int `json:"refusals,omitempty"`
}

// date is the day of now as CyclesOn has it.
func date(now time.Time) string { return now.UTC().Format(time.DateOnly) }

// cyclesOn is the number of power-ons on a day.
func (l Ledger) cyclesOn(day string) int {
	if l.CyclesOn != day {
		return 0
	}
	return l.Cycles
}

// after is the ledger once do is done at now, on the day today.
func (l Ledger) after(do Verb, now time.Time, today string) Ledger {
	switch do {
	case TurnOn:
		l.OnAt, l.Cycles, l.CyclesOn = now, l.cyclesOn(today)+1, today
	case SoftOff, HardOff:
		l.OffAt = now
	case Enable:
		l.FailedBoots = 0
		if !l.joined() {
			l.JoinedAt = now
		}
	}
	return l
}

// joined reports whether the host's client was seen to have registered since
// the last power-on.
func (l Ledger) joined() bool { return l.JoinedAt.After(l.OnAt) }

// stopped reports whether the host was seen off since it was last told to go
// off: if it is on all the same, somebody else powered it on.
func (l Ledger) stopped() bool { return l.StoppedAt.After(l.OffAt) }

// Refused is the intent of a power-on that the provider refused for want of
// capacity: before is the host's ledger from before it. The host was not
// powered on, so nothing is worn and nothing to wait for.
func (i Intent) Refused(before Ledger) Intent {
	i.NoCapacity, i.Ambiguous = true, false
	i.OnAt, i.Cycles, i.CyclesOn = before.OnAt, before.Cycles, before.CyclesOn
	return i
}

// View is everything known about one host.
type View struct {
	Host
	Seen
	Intent
	Said Said // by an operator
}

// Ask is work that waits because it fits nowhere now.
type Ask struct {
	// Classes are those whose hosts it fits, sorted; empty for all.
	Classes []string
	GPUs    int // that one allocation of it needs
	Count   int // allocations
}

// fits reports whether the work could run on a host that is empty.
func (a Ask) fits(h Host) bool {
	return a.GPUs <= h.GPUs && (len(a.Classes) == 0 || slices.Contains(a.Classes, h.Class))
}

// Snapshot is everything known about a pool at one moment.
type Snapshot struct {
	At    time.Time // when the sweep ended
	Hosts []View
	Asks  []Ask            // work that waits; it says which class to power on, not how many
	Times map[string]Times // how long hosts take, by class, as far as it was learned
}

// name indexes names by a small enumeration.
func name(i int, names ...string) string {
	if i < 0 || i >= len(names) {
		return fmt.Sprintf("invalid(%d)", i)
	}
	return names[i]
}
