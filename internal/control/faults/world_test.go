package faults

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/consul/consultest"
	"github.com/gpupool/gpupool/internal/pool"
)

const (
	heartbeatTTL = 20 * time.Second // how long Nomad calls a silent node ready
	sampleAge    = time.Second      // oldest sample in an agent's answer
	leaseTTL     = 15 * time.Second
	lockDelay    = leaseTTL
	actTimeout   = leaseTTL * 2 / 5
	bmcTimeout   = 3 * time.Second
	gpusEach     = 2
)

var (
	errUnreachable = errors.New("no route to BMC")
	errRefused     = errors.New("refused")
	errAway        = errors.New("server is away")
	errLost        = errors.New("the answer was lost")
	errNoCapacity  = errors.New("none of this kind left")
)

// world is a rack, its servers and its people. Nothing in it runs by itself:
// whoever touches it first lets it catch up with the time, event by event.
type world struct {
	mu     sync.Mutex
	setup  setup
	start  time.Time
	now    time.Time
	events events
	order  int

	hosts  []*machine
	byID   map[string]*machine
	queue  []*job
	jobs   int
	index  uint64
	away   map[string]time.Time // "nomad", "consul", "nomad answers" and "consul answers", until when
	mem    consultest.Memory
	procs  []*proc
	words  map[string]pool.Said
	saidAt map[string]time.Time // when a host's word last changed
	times  map[string]pool.Times
	dry    until // the provider has no spot host to give
	holder *proc
	expiry time.Time // of the holder's session
	locked time.Time // nobody can win the lease before

	want     int
	wants    []wanted // all that was ever wanted, to judge by
	judge    judge
	lastAct  time.Time
	tell     bool
	story    strings.Builder
	finished bool
}

type wanted struct {
	at time.Time
	n  int
}

// event is something that will happen.
type event struct {
	at    time.Time
	order int
	do    func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	if e[i].at.Equal(e[j].at) {
		return e[i].order < e[j].order
	}
	return e[i].at.Before(e[j].at)
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	last := old[len(old)-1]
	*e = old[:len(old)-1]
	return last
}

func (w *world) at(t time.Time, do func()) {
	w.order++
	heap.Push(&w.events, event{t, w.order, do})
}

func (w *world) after(d time.Duration, do func()) { w.at(w.now.Add(d), do) }

// lock takes the world and lets it catch up.
func (w *world) lock() {
	w.mu.Lock()
	now := time.Now()
	for len(w.events) > 0 && !w.events[0].at.After(now) {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
	}
	w.now = now
}

func (w *world) unlock() { w.mu.Unlock() }

// say adds a line to the story.
func (w *world) say(format string, args ...any) {
	if w.tell {
		fmt.Fprintf(&w.story, "%9s  %s\n", w.now.Sub(w.start).Round(time.Millisecond), fmt.Sprintf(format, args...))
	}
}

// dice is chance that depends on the seed, the moment and the purpose, so that
// removing one fault from a schedule changes nothing else by itself.
func (w *world) dice(purpose string, salt int) uint64 {
	x := w.setup.seed ^ uint64(w.now.Sub(w.start))*0x9e3779b97f4a7c15 ^ uint64(salt)<<48
	for _, c := range []byte(purpose) {
		x = (x ^ uint64(c)) * 0x100000001b3
	}
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

func (w *world) between(purpose string, salt int, lo, hi time.Duration) time.Duration {
	if hi <= lo {
		return lo
	}
	return lo + time.Duration(w.dice(purpose, salt)%uint64(hi-lo))
}

func (w *world) isAway(what string) bool { return w.now.Before(w.away[what]) }

// until is a fault that lasts.
type until time.Time

func (u until) on(now time.Time) bool { return now.Before(time.Time(u)) }

// machine is one host as it is.
type machine struct {
	w           *world
	n           int
	id          string
	class, rack string

	// Faults, each until its time.
	bmcHung, bmcDead, bmcLies, bmcLate, bmcRefuses      until
	bootsNever, bootsSlow, bootsDead, clientless, noGPU until
	cut, agentDown, agentGone, agentBlind, ignoresSoft  until
	bmcFault                                            time.Time // when the BMC's last fault is over
	bmcLied                                             time.Time // when its last lie is

	on       bool
	life     int // counts what invalidates pending events: power off, power on, crash
	osUp     bool
	client   bool // the Nomad client runs
	agent    bool // the agent runs
	shutting bool
	onByUs   bool // powered on by us since it was last off
	joined   bool // its client registered since its operating system started
	// everJoined: its client registered since the power came on.
	everJoined bool
	outside    []time.Time
	// orphans run on, although Nomad gave them up when it lost sight of the host.
	orphans []*job
	onSince time.Time

	node node
	hold hold
	// readyAt is when Nomad last began to call its node ready.
	readyAt time.Time
	dimmed  time.Time // when it last left service by a hand that is not ours
}

// node is what Nomad keeps of a host.
type node struct {
	known     bool
	status    pool.NodeStatus
	index     uint64
	eligible  bool
	draining  bool
	mark      pool.Mark
	work      []*job
	operators bool // somebody other than us made it eligible since we last made it ineligible
	askedAt   time.Time
}

// hold is an operator's hand on a host.
type hold struct {
	on    bool
	since time.Time
	seen  bool // Nomad shows it
	// drained: it began as a drain, whose mark stays.
	drained bool
}

// job is an allocation, placed or waiting.
type job struct {
	id      string
	gpus    int
	service bool
	class   string // of the hosts that it fits; empty for any
	lasts   time.Duration
	placed  time.Time
	gone    bool
}

func (w *world) clean(m *machine, since time.Time) bool { return m.bmcFault.Before(since) }

// The chassis and what runs on it.

func (m *machine) powerOn(byUs bool) {
	if m.on {
		return
	}
	w := m.w
	m.on, m.onByUs, m.joined, m.everJoined, m.onSince = true, byUs, false, false, w.now
	w.judge.given[m.class] = w.now
	if d := w.judge.docket(m); d.sawOff {
		d.asked = false // it was a former life that was asked to shut down
	}
	m.life++
	life := m.life
	boot := w.between("boot", m.n, 15*time.Second, 50*time.Second)
	if m.bootsSlow.on(w.now) {
		boot += w.setup.limits.BootTimeout
	}
	w.say("%s: the chassis is on", m.id)
	if m.bootsNever.on(w.now) {
		return
	}
	if m.bootsDead.on(w.now) {
		w.after(boot/2, func() {
			if m.life == life {
				w.say("%s dies while it boots", m.id)
				m.powerOff()
			}
		})
		return
	}
	w.after(boot, func() {
		if m.life == life {
			m.up()
		}
	})
}

func (m *machine) up() {
	w, life := m.w, m.life
	m.osUp, m.agent = true, true
	w.say("%s: its operating system is up", m.id)
	if m.clientless.on(w.now) {
		return
	}
	w.after(w.between("client", m.n, time.Second, 6*time.Second), func() {
		if m.life == life {
			m.client = true
			m.register()
		}
	})
}

// powerOff is the end of everything on the host.
func (m *machine) powerOff() {
	if !m.on {
		return
	}
	m.on, m.onByUs = false, false
	m.crash()
	m.w.say("%s: the chassis is off", m.id)
}

// crash ends the operating system, with the chassis as it was.
func (m *machine) crash() {
	m.life++
	m.osUp, m.client, m.agent, m.shutting, m.outside, m.orphans = false, false, false, false, nil, nil
	m.silent()
}

// shutdown is what an operating system does when it is asked to.
func (m *machine) shutdown() {
	w := m.w
	if !m.osUp || m.shutting || m.ignoresSoft.on(w.now) {
		return
	}
	m.shutting = true
	life := m.life
	w.after(w.between("shutdown", m.n, 2*time.Second, 15*time.Second), func() {
		if m.life == life {
			if w.setup.selfDrain && m.client && m.node.known {
				m.node.eligible, m.node.mark = false, pool.MarkNone
				m.hold.seen = false // race: that hides whose drain was before
			}
			m.powerOff()
		}
	})
}

// Nomad.

func (m *machine) beats() bool { return m.client && !m.cut.on(m.w.now) }

func (m *machine) touch() { m.w.index++; m.node.index = m.w.index }

// register is a client that comes, or comes back.
func (m *machine) register() {
	w := m.w
	if !m.beats() {
		return
	}
	life := m.life
	if m.node.status != pool.NodeReady || !m.joined {
		m.loseWork("its host has started anew")
		m.orphans = nil // its client ends what Nomad has placed anew
		if !m.node.known {
			m.node.known, m.node.eligible = true, true
		}
		m.node.status = pool.NodeInit
		m.touch()
		w.after(w.between("init", m.n, 100*time.Millisecond, 2*time.Second), func() {
			if m.life == life && m.beats() {
				m.node.status, m.joined, m.everJoined, m.readyAt = pool.NodeReady, true, true, w.now
				m.touch()
				w.say("%s: its Nomad node is ready, eligible %v", m.id, m.node.eligible)
				w.place()
			}
		})
	}
}

// silent is a client that is not heard any more: Nomad notices later.
func (m *machine) silent() {
	w := m.w
	w.after(heartbeatTTL, func() {
		if !m.beats() && m.node.known && m.node.status != pool.NodeDown {
			if m.node.status == pool.NodeReady && m.node.eligible {
				m.dimmed = w.now
			}
			m.node.status = pool.NodeDown
			m.touch()
			if m.osUp {
				for _, j := range m.node.work {
					w.after(j.lasts-w.now.Sub(j.placed), func() {
						m.orphans = slices.DeleteFunc(m.orphans, func(o *job) bool { return o == j })
					})
				}
				m.orphans = append(m.orphans, m.node.work...)
			}
			m.loseWork("its node is down")
			m.node.draining = false
			w.say("%s: Nomad calls its node down", m.id)
		}
	})
}

func (m *machine) loseWork(why string) {
	for _, j := range m.node.work {
		m.w.say("%s: %s is lost: %s", m.id, j.id, why)
		m.w.submit(*j)
		j.gone = true
	}
	m.node.work = nil
}

// submit asks for a job like j to be run.
func (w *world) submit(j job) {
	if w.finished {
		return
	}
	w.jobs++
	j.id, j.gone = fmt.Sprintf("job-%d", w.jobs), false
	w.queue = append(w.queue, &j)
	w.after(50*time.Millisecond, w.place)
}

// place is Nomad's scheduler.
func (w *world) place() {
	var wait []*job
	for _, j := range w.queue {
		var best *machine
		for i := range w.hosts {
			m := w.hosts[(i+int(w.dice("place", w.jobs)%64))%len(w.hosts)]
			free := gpusEach
			for _, a := range m.node.work {
				free -= a.gpus
			}
			if m.node.status == pool.NodeReady && m.node.eligible && !m.node.draining && free >= j.gpus && (j.class == "" || j.class == m.class) {
				best = m
				break
			}
		}
		if best == nil {
			wait = append(wait, j)
			continue
		}
		j.placed = w.now
		best.node.work = append(best.node.work, j)
		w.say("%s: %s begins", best.id, j.id)
		w.after(j.lasts, func() { best.end(j, "ends") })
	}
	w.queue = wait
}

func (m *machine) end(j *job, how string) {
	if j.gone {
		return
	}
	j.gone = true
	for i, a := range m.node.work {
		if a == j {
			m.node.work = append(m.node.work[:i:i], m.node.work[i+1:]...)
			m.w.say("%s: %s %s", m.id, j.id, how)
			break
		}
	}
	m.drainEnds()
	m.w.place()
}

// drain is anybody's.
func (m *machine) drain(mark pool.Mark) {
	m.node.eligible, m.node.draining, m.node.mark = false, true, mark
	m.touch()
	for _, j := range m.node.work {
		m.w.after(m.w.between("migrate"+j.id, m.n, time.Second, 10*time.Second), func() {
			if !j.gone && m.node.draining {
				m.w.submit(*j)
				m.end(j, "was moved away")
			}
		})
	}
	m.drainEnds()
}

func (m *machine) drainEnds() {
	if m.node.draining && len(m.node.work) == 0 {
		m.node.draining = false
		m.touch()
	}
}

func (m *machine) setEligible(v bool) {
	m.node.eligible = v
	m.node.draining = m.node.draining && !v
	m.touch()
	m.w.place()
}

// inService is what Nomad would place work on.
func (m *machine) inService() bool {
	return m.node.status == pool.NodeReady && m.node.eligible && !m.node.draining
}

// Seeing.

// observe is what a sweep finds. It runs without the lock, which it takes for
// each server in turn.
func (w *world) observe(ctx context.Context, p *proc) (pool.Snapshot, error) {
	nodeAt := time.Now()
	w.lock()
	wait := w.between("read nomad", p.n, 5*time.Millisecond, 300*time.Millisecond)
	w.unlock()
	time.Sleep(wait)
	w.lock()
	if w.isAway("nomad") {
		w.unlock()
		time.Sleep(time.Second)
		return pool.Snapshot{}, errAway
	}
	views := make([]pool.View, len(w.hosts))
	for i, m := range w.hosts {
		views[i].Host = pool.Host{ID: m.id, NodeName: m.id, GPUs: gpusEach, Class: m.class, Domain: m.rack}
		views[i].Self = p.ownHost() == m
		views[i].NodeAt, views[i].Node = nodeAt, m.seeNode()
	}
	wait = w.between("read power", p.n, 5*time.Millisecond, 100*time.Millisecond)
	asks := w.asks()
	hung := false
	for _, m := range w.hosts {
		hung = hung || m.bmcHung.on(w.now)
	}
	w.unlock()
	powerAt := time.Now()
	time.Sleep(wait)
	w.lock()
	for i, m := range w.hosts {
		views[i].PowerAt = powerAt
		views[i].Power, views[i].PowerErr = m.seePower()
		if w.setup.limits.Agent != pool.AgentNone {
			views[i].Agent, views[i].AgentAt = m.seeAgent()
		}
	}
	w.unlock()
	if hung {
		time.Sleep(bmcTimeout)
	}
	return pool.Snapshot{At: time.Now(), Hosts: views, Asks: asks}, ctx.Err()
}

// asks are the jobs that wait.
func (w *world) asks() []pool.Ask {
	var asks []pool.Ask
	for _, j := range w.queue {
		ask := pool.Ask{GPUs: j.gpus, Count: 1}
		if j.class != "" {
			ask.Classes = []string{j.class}
		}
		asks = append(asks, ask)
	}
	return asks
}

func (m *machine) seeNode() pool.Node {
	if !m.node.known {
		return pool.Node{Status: pool.NodeAbsent}
	}
	n := pool.Node{
		ID: m.id, Status: m.node.status, Index: m.node.index, Eligible: m.node.eligible,
		Draining: m.node.draining, Mark: m.node.mark, GPUs: gpusEach,
	}
	if m.noGPU.on(m.w.now) {
		n.GPUs--
	}
	for _, j := range m.node.work {
		n.Work = append(n.Work, pool.Alloc{ID: j.id, Job: j.id, Type: j.kind(), GPUs: j.gpus, Since: j.placed})
	}
	return n
}

func (j *job) kind() string {
	if j.service {
		return "service"
	}
	return "batch"
}

func (m *machine) seePower() (pool.Power, string) {
	now := m.w.now
	switch {
	case m.bmcHung.on(now):
		return pool.PowerUnknown, "timed out"
	case m.bmcDead.on(now):
		return pool.PowerUnknown, errUnreachable.Error()
	case m.on != m.bmcLies.on(now):
		return pool.PowerOn, ""
	}
	return pool.PowerOff, ""
}

func (m *machine) seeAgent() (pool.Agent, time.Time) {
	w := m.w
	switch {
	case m.agentGone.on(w.now):
		return pool.Agent{}, time.Time{}
	case !m.agent || m.agentDown.on(w.now):
		return pool.Agent{Status: pool.AgentFailing}, w.now
	case m.agentBlind.on(w.now):
		return pool.Agent{Status: pool.AgentPassing, Blind: "no driver"}, w.now
	}
	return pool.Agent{Status: pool.AgentPassing, Outside: m.outsideBefore(w.now.Add(-sampleAge))}, w.now
}

func (m *machine) outsideBefore(t time.Time) int {
	n := 0
	for _, began := range m.outside {
		if began.Before(t) {
			n++
		}
	}
	return n
}

// Doing.

// command is an act on its way.
type command struct {
	do    pool.Verb
	p     *proc
	sight pool.View
	sent  time.Time
}

// act does one thing to one host, as well as the host's servers let it.
func (w *world) act(ctx context.Context, p *proc, v pool.View, do pool.Verb) error {
	w.lock()
	m := w.byID[v.Host.ID]
	c := command{do, p, v, w.now}
	w.judge.begins(m, c)
	w.say("%s: %s sent by %s", m.id, do, p.name)
	bmc := do == pool.TurnOn || do == pool.SoftOff || do == pool.HardOff
	wait := w.between("act", m.n, 5*time.Millisecond, 400*time.Millisecond)
	w.unlock()
	time.Sleep(wait)

	w.lock()
	deadline, _ := ctx.Deadline()
	latest := deadline.Add(w.setup.limits.Fence - actTimeout)
	var err error
	hang := false
	switch late := w.between("late", m.n, 0, latest.Sub(w.now)); {
	case ctx.Err() != nil:
		err = ctx.Err()
	case bmc && m.bmcDead.on(w.now):
		err = errUnreachable
	case bmc && m.bmcRefuses.on(w.now):
		err = errRefused
	case bmc && m.bmcHung.on(w.now):
		hang = true
	case do == pool.TurnOn && m.class == "spot" && w.dry.on(w.now) && !m.on:
		err = errNoCapacity
	case bmc && m.bmcLate.on(w.now), !bmc && w.isAway("nomad answers"):
		hang = true
		w.after(late, func() { w.say("%s: %s is carried out late", m.id, do); _ = m.carryOut(c) })
	case !bmc && w.isAway("nomad"):
		err = errAway
	default:
		err = m.carryOut(c)
	}
	w.unlock()
	if hang {
		<-ctx.Done()
		err = ctx.Err()
	}
	return err
}

// carryOut is the moment that a command takes effect.
func (m *machine) carryOut(c command) error {
	w := m.w
	w.judge.takesEffect(m, c)
	n := &m.node
	switch c.do {
	case pool.TurnOn:
		m.powerOn(true)
	case pool.SoftOff:
		m.shutdown()
	case pool.HardOff:
		m.powerOff()
	case pool.Cordon:
		if c.sight.Node.ID == "" {
			return errRefused
		}
		m.setEligible(false)
	case pool.Drain:
		if n.draining && n.mark == pool.MarkForeign {
			return errRefused
		}
		m.drain(pool.MarkOurs)
	case pool.Enable:
		switch {
		case c.sight.Node.ID == "", n.draining && n.mark == pool.MarkForeign:
			return errRefused
		case n.draining, n.mark == pool.MarkOurs && !n.eligible && len(n.work) == 0:
			n.mark = pool.MarkReleased
		}
		m.setEligible(true)
	}
	return nil
}

// ambiguous is live.Ambiguous for this world.
func ambiguous(err error) bool {
	return !errors.Is(err, errUnreachable) && !errors.Is(err, errRefused)
}

// says is an operator who speaks of a host; WordNone takes the last word back.
func (w *world) says(m *machine, word pool.Word) {
	w.say("%s: an operator says %s", m.id, word)
	w.words[m.id] = pool.Said{Word: word, By: "operator", Reason: "chaos", At: w.now}
	if word == pool.WordNone {
		delete(w.words, m.id)
	}
	w.saidAt[m.id] = w.now
}

// heard is the word that stands on a host, if the process knows it: silence
// where it changed since the process asked, which is nobody's fault.
func (w *world) heard(m *machine, p *proc) (word pool.Word, sure bool) {
	return w.words[m.id].Word, w.saidAt[m.id].Before(p.askedAt)
}

// leaves reports whether an operator wants a host out of service, or may want it
// for all that the process knows.
func (w *world) leaves(m *machine, p *proc) bool {
	word, sure := w.heard(m, p)
	return !sure || word == pool.WordDrain || word == pool.WordOff
}

// setWant is somebody who wants another count.
func (w *world) setWant(n int) {
	old, err := w.mem.Want(context.Background())
	if err != nil {
		old = consul.Want{}
	}
	if _, err := w.mem.SetWant(context.Background(), consul.Want{Count: n, At: w.now, Rev: old.Rev}); err != nil {
		panic(err)
	}
	w.want = n
	w.wants = append(w.wants, wanted{w.now, n})
	w.say("%d wanted", n)
}
