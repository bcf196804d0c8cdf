package faults

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/pool"
)

// setup is a world before anything happens to it.
type setup struct {
	seed      uint64
	hosts     int
	class     []string // of each host
	rack      []string
	self      int // host on which process A runs; beyond them, none
	learned   bool
	want      int
	limits    pool.Limits
	poll      time.Duration
	offset    time.Duration // of the day, so that some schedules pass midnight
	selfDrain bool          // clients drain themselves when their host shuts down
	chaos     time.Duration // faults begin before this, and none lasts longer
	faults    []fault
}

// fault is one thing that happens.
type fault struct {
	at   time.Duration
	kind string
	host int // or process, or count
	last time.Duration
	step step
}

func (f fault) String() string {
	s := fmt.Sprintf("%9s  %s", f.at, f.kind)
	switch k := kinds[f.kind]; {
	case k.who == "host":
		s += fmt.Sprintf(" gpu-%d", f.host+1)
	case k.who == "process":
		s += fmt.Sprintf(" %c %s", 'A'+f.host%2, f.step)
	case k.who == "count" || f.host != 0:
		s += fmt.Sprintf(" %d", f.host)
	}
	if f.last > 0 {
		s += fmt.Sprintf(" for %s", f.last)
	}
	return s
}

// kind is a kind of fault: whom it befalls, how often it is chosen, how long
// it lasts, and what it does.
type kind struct {
	who    string // host, process, count, or nothing
	weight int
	lo, hi time.Duration
	do     func(w *world, m *machine, f fault)
}

// lasting is a fault of a BMC, which makes what is counted by it uncertain.
func lastingBMC(field func(*machine) *until) func(*world, *machine, fault) {
	return func(w *world, m *machine, f fault) {
		extend(field(m), w, f)
		if end := time.Time(*field(m)); end.After(m.bmcFault) {
			m.bmcFault = end
		}
		// A late command is a fault of its own for as long as it is late.
		m.bmcFault = m.bmcFault.Add(w.setup.limits.Fence)
		m.bmcLied = time.Time(m.bmcLies)
	}
}

func lasting(field func(*machine) *until) func(*world, *machine, fault) {
	return func(w *world, m *machine, f fault) { extend(field(m), w, f) }
}

func extend(u *until, w *world, f fault) {
	if end := w.now.Add(f.last); end.After(time.Time(*u)) {
		*u = until(end)
	}
}

func away(what string) func(*world, *machine, fault) {
	return func(w *world, _ *machine, f fault) {
		if end := w.now.Add(f.last); end.After(w.away[what]) {
			w.away[what] = end
		}
	}
}

// kinds are all the faults there are, and what people do.
var kinds map[string]kind

func init() {
	s, min := time.Second, time.Minute
	kinds = map[string]kind{
		"the BMC hangs of":                {"host", 4, 5 * s, 3 * min, lastingBMC(func(m *machine) *until { return &m.bmcHung })},
		"the BMC is unreachable of":       {"host", 3, 5 * s, 4 * min, lastingBMC(func(m *machine) *until { return &m.bmcDead })},
		"the BMC lies about power of":     {"host", 3, 3 * s, 2 * min, lastingBMC(func(m *machine) *until { return &m.bmcLies })},
		"the BMC acts late of":            {"host", 6, 10 * s, 4 * min, lastingBMC(func(m *machine) *until { return &m.bmcLate })},
		"the BMC refuses for":             {"host", 2, 5 * s, 2 * min, lastingBMC(func(m *machine) *until { return &m.bmcRefuses })},
		"does not boot:":                  {"host", 3, 2 * min, 8 * min, lasting(func(m *machine) *until { return &m.bootsNever })},
		"boots slowly:":                   {"host", 2, 2 * min, 5 * min, lasting(func(m *machine) *until { return &m.bootsSlow })},
		"dies while it boots:":            {"host", 2, 2 * min, 5 * min, lasting(func(m *machine) *until { return &m.bootsDead })},
		"boots without a Nomad client:":   {"host", 3, 2 * min, 6 * min, lasting(func(m *machine) *until { return &m.clientless })},
		"a GPU is missing of":             {"host", 2, 30 * s, 4 * min, lasting(func(m *machine) *until { return &m.noGPU })},
		"the agent fails of":              {"host", 2, 10 * s, 2 * min, lasting(func(m *machine) *until { return &m.agentDown })},
		"nothing is known of the agent:":  {"host", 1, 10 * s, 2 * min, lasting(func(m *machine) *until { return &m.agentGone })},
		"the agent is blind of":           {"host", 1, 10 * s, 2 * min, lasting(func(m *machine) *until { return &m.agentBlind })},
		"ignores soft off:":               {"host", 2, 30 * s, 4 * min, lasting(func(m *machine) *until { return &m.ignoresSoft })},
		"is cut off from Nomad:":          {"host", 3, 5 * s, 90 * s, cutOff},
		"loses power:":                    {"host", 2, 0, 0, func(_ *world, m *machine, _ fault) { m.powerOff() }},
		"power flaps:":                    {"host", 2, 2 * s, 8 * s, flap},
		"crashes:":                        {"host", 2, 20 * s, 3 * min, crash},
		"a process begins on the GPUs of": {"host", 8, 5 * s, 3 * min, outside},
		"an operator drains":              {"host", 3, 20 * s, 5 * min, operatorDrains},
		"an operator makes ineligible":    {"host", 3, 20 * s, 5 * min, operatorMarks},
		"an operator makes eligible":      {"host", 2, 0, 0, operatorEnables},
		"an operator powers on":           {"host", 2, 0, 0, func(_ *world, m *machine, _ fault) { m.powerOn(false) }},
		"a job comes":                     {"", 20, 5 * s, 3 * min, jobComes},
		"an operator says hold of":        {"host", 2, 20 * s, 5 * min, says(pool.WordHold)},
		"an operator says drain of":       {"host", 3, 20 * s, 5 * min, says(pool.WordDrain)},
		"an operator says off of":         {"host", 3, 20 * s, 5 * min, says(pool.WordOff)},
		"an operator says on of":          {"host", 3, 20 * s, 5 * min, says(pool.WordOn)},
		"the provider has no spot host":   {"", 4, 30 * s, 5 * min, func(w *world, _ *machine, f fault) { extend(&w.dry, w, f) }},
		"Nomad is away":                   {"", 2, 5 * s, 90 * s, away("nomad")},
		"Nomad answers too late":          {"", 2, 5 * s, 60 * s, away("nomad answers")},
		"Consul is away":                  {"", 2, 5 * s, 60 * s, away("consul")},
		"Consul's answers are lost":       {"", 2, 5 * s, 30 * s, away("consul answers")},
		"the lease is taken away":         {"", 2, 0, 0, func(w *world, _ *machine, _ fault) { w.takeLease("its session was ended") }},
		"kill process":                    {"process", 10, s, 40 * s, func(w *world, _ *machine, f fault) { w.procs[f.host%2].trap = &trap{at: f.step, away: f.last} }},
		"stall process":                   {"process", 5, s, 30 * s, func(w *world, _ *machine, f fault) { w.procs[f.host%2].trap = &trap{at: f.step, stall: f.last} }},
		"both processes restart":          {"", 2, 0, 0, func(w *world, _ *machine, _ fault) { w.procs[0].stop, w.procs[1].stop = true, true }},
		"want":                            {"count", 24, 0, 0, func(w *world, _ *machine, f fault) { w.setWant(f.host) }},
	}
}

func jobComes(w *world, _ *machine, f fault) {
	j := job{gpus: 1 + f.host%gpusEach, lasts: f.last, service: w.dice("service", 0)%2 == 0}
	if w.dice("class", 0)%3 == 0 {
		j.class = w.setup.class[int(w.dice("which", 0)%uint64(len(w.setup.class)))]
	}
	w.submit(j)
}

// says is a word that is taken back after a while, or, where none is given,
// stands for good.
func says(word pool.Word) func(*world, *machine, fault) {
	return func(w *world, m *machine, f fault) {
		w.says(m, word)
		at := w.now
		if f.last > 0 {
			w.after(f.last, func() {
				if w.saidAt[m.id].Equal(at) {
					w.says(m, pool.WordNone)
				}
			})
		}
	}
}

func cutOff(w *world, m *machine, f fault) {
	extend(&m.cut, w, f)
	m.silent()
	w.at(time.Time(m.cut), func() {
		if m.client && !m.cut.on(w.now) && m.node.status != pool.NodeReady {
			m.register()
		}
	})
}

func flap(w *world, m *machine, f fault) {
	if m.on {
		m.powerOff()
		w.after(f.last, func() { m.powerOn(false) })
	}
}

func crash(w *world, m *machine, f fault) {
	if !m.osUp {
		return
	}
	m.crash()
	life := m.life
	w.after(f.last, func() {
		if m.life == life {
			m.joined = false
			m.up() // a watchdog starts it again
		}
	})
}

func outside(w *world, m *machine, f fault) {
	if !m.osUp {
		return
	}
	began := w.now
	m.outside = append(m.outside, began)
	w.after(f.last, func() {
		m.outside = slices.DeleteFunc(m.outside, func(t time.Time) bool { return t.Equal(began) })
	})
}

// visible reports whether Nomad's view alone tells an ineligibility of somebody
// else from ours. An intent that did not end well may still be ours to finish,
// unless the node was eligible before.
func (m *machine) visible() bool {
	d := m.w.judge.docket(m)
	in := m.intent()
	return m.node.mark != pool.MarkOurs &&
		(d.verb == pool.VerbNone || (d.verb == pool.TurnOn || d.verb == pool.Enable) && d.eligible || d.verb == pool.Enable && !in.SettledAt.IsZero() && in.Err == "")
}

func operatorDrains(w *world, m *machine, f fault) {
	if !m.node.known || m.node.status == pool.NodeDown || m.former() {
		return
	}
	m.leaves()
	d := w.judge.docket(m)
	seen := m.visible() || d.verb != pool.VerbNone && !d.foreign
	m.drain(pool.MarkForeign)
	m.hold = hold{on: true, since: w.now, seen: seen, drained: true}
	w.after(f.last, m.giveBack(w.now))
}

func operatorMarks(w *world, m *machine, f fault) {
	if !m.node.known || !m.node.eligible || m.former() {
		return
	}
	m.leaves()
	seen := m.visible()
	m.setEligible(false)
	m.hold = hold{on: true, since: w.now, seen: seen}
	w.after(f.last, m.giveBack(w.now))
}

func (m *machine) leaves() {
	if m.inService() {
		m.dimmed = m.w.now
	}
	m.node.askedAt = m.w.now
}

func (m *machine) giveBack(since time.Time) func() {
	return func() {
		switch {
		case !m.hold.on || !m.hold.since.Equal(since):
		case m.former():
			m.w.after(heartbeatTTL, m.giveBack(since))
		default:
			operatorEnables(m.w, m, fault{})
		}
	}
}

// former reports whether Nomad calls a node ready whose client is gone.
//
// race: what an operator changes of it then looks like its client, which
// registers anew.
func (m *machine) former() bool { return m.node.status == pool.NodeReady && !m.client }

func operatorEnables(w *world, m *machine, _ fault) {
	if !m.node.known || m.node.eligible || m.former() {
		return
	}
	w.say("%s: an operator makes it eligible", m.id)
	m.hold = hold{}
	m.node.operators = true
	m.node.askedAt = w.now
	m.setEligible(true)
}

// begin lets a fault happen.
func (w *world) befall(f fault) {
	m := w.hosts[f.host%len(w.hosts)]
	w.say("FAULT %s", strings.TrimSpace(f.String()))
	kinds[f.kind].do(w, m, f)
}

// generate makes the schedule that a seed stands for.
func generate(seed uint64) setup {
	r := rand.New(rand.NewPCG(seed, 1))
	pick := func(of ...time.Duration) time.Duration { return of[r.IntN(len(of))] }
	s := setup{
		seed: seed, hosts: 1 + r.IntN(5), poll: pick(2*time.Second, 4*time.Second),
		offset: pick(8*time.Hour, 23*time.Hour+50*time.Minute), selfDrain: r.IntN(4) == 0,
		chaos: pick(5*time.Minute, 8*time.Minute, 12*time.Minute),
	}
	s.want = r.IntN(s.hosts + 1)
	s.limits = pool.Limits{
		Min: r.IntN(2) * r.IntN(2), MaxBooting: 1 + r.IntN(2), MaxDraining: 1 + r.IntN(2),
		PowerConfirm: pick(20*time.Second, 40*time.Second), BootTimeout: pick(75*time.Second, 2*time.Minute),
		SoftOffTimeout: pick(30*time.Second, time.Minute), StaleAfter: pick(20*time.Second, 45*time.Second),
		HardOff: r.IntN(2) == 0, MinOn: pick(0, 0, 2*time.Minute), CycleBudget: []int{0, 0, 3}[r.IntN(3)],
		Stagger: pick(0, 5*time.Second, 15*time.Second), Fence: 12 * time.Second,
		Agent: []pool.AgentRule{pool.AgentRequired, pool.AgentRequired, pool.AgentOptional, pool.AgentNone}[r.IntN(4)],
		Spare: []int{0, 0, 0, 1}[r.IntN(4)], Max: []int{99, 99, 99, s.hosts, max(1, s.hosts-1)}[r.IntN(5)],
	}
	s.self = r.IntN(20)
	s.learned = r.IntN(3) == 0
	for range s.hosts {
		s.class = append(s.class, []string{"owned", "owned", "spot"}[r.IntN(3)])
		s.rack = append(s.rack, []string{"rack-a", "rack-b"}[r.IntN(2)])
	}
	s.limits.DrainWork = []pool.WorkRule{pool.DrainNone, pool.DrainServices, pool.DrainAll}[r.IntN(3)]
	s.limits.Classes = map[string]pool.Class{
		"owned": {BootWatts: 900, RunWatts: 700, Cost: 1},
		"spot":  {BootWatts: 500, RunWatts: 600, Cost: []float64{0.5, 2}[r.IntN(2)], Spot: true, Standby: []int{0, 0, 0, 1}[r.IntN(4)]},
	}
	if r.IntN(2) == 0 {
		s.limits.Budgets = map[string]float64{"rack-a": float64(900 + 500*r.IntN(4))}
	}
	var names []string
	total := 0
	for name, k := range kinds {
		names = append(names, name)
		total += k.weight
	}
	slices.Sort(names)
	for range 4 + r.IntN(30) {
		x := r.IntN(total)
		for _, name := range names {
			k := kinds[name]
			if x -= k.weight; x >= 0 {
				continue
			}
			f := fault{kind: name, at: max(time.Millisecond, time.Duration(r.Int64N(int64(s.chaos))).Round(time.Millisecond)), host: r.IntN(s.hosts + 1), step: steps[r.IntN(len(steps))]}
			if k.hi > 0 {
				f.last = min(k.lo+time.Duration(r.Int64N(int64(k.hi-k.lo))), s.chaos-f.at).Round(time.Millisecond)
			}
			if k.who == "host" {
				f.host %= s.hosts
			}
			if strings.HasPrefix(name, "an operator says") && r.IntN(3) == 0 {
				f.last = 0 // for good
			}
			s.faults = append(s.faults, f)
			break
		}
	}
	slices.SortStableFunc(s.faults, func(a, b fault) int { return int(a.at - b.at) })
	return s
}
