package instance

import (
	"fmt"
	"time"

	"github.com/gpupool/gpupool/internal/engine"
	"github.com/gpupool/gpupool/internal/fleet"
)

// Rules are the numbers that the states go by.
type Rules struct {
	GoodLooks int // in a row before an instance is ready
	BadLooks  int // in a row before a ready one is unhealthy
	// BadFor is how long there must have been no good look besides. It is
	// SilentFor where the server takes connections and does not answer: a
	// server that is too busy does that, and to take it out would make the
	// others as busy.
	BadFor, SilentFor time.Duration
	// Dwell is how long work must be away before a serving instance is warm, and
	// the reasons before a saturated one is serving.
	Dwell time.Duration
	// FullAfter is how long requests must have waited, all slots have been in
	// use, or the KV cache have been fuller than FullKV, before an instance is
	// saturated.
	FullAfter time.Duration
	FullKV    float64
	// WarmingLimit is how long warming may take.
	WarmingLimit time.Duration
	// FirstHold is how long an instance stays unhealthy after the cause has
	// gone. It doubles each time it falls back, up to LastHold, and starts
	// anew after it has been ready for Forgive.
	FirstHold, LastHold, Forgive time.Duration
}

// DefaultRules are the rules where nothing else is configured.
func DefaultRules() Rules {
	return Rules{
		GoodLooks: 2, BadLooks: 3, BadFor: 5 * time.Second, SilentFor: 20 * time.Second,
		Dwell: 5 * time.Second, FullAfter: 5 * time.Second, FullKV: 0.9,
		WarmingLimit: 30 * time.Minute,
		FirstHold:    10 * time.Second, LastHold: 5 * time.Minute, Forgive: 15 * time.Minute,
	}
}

// Task is how the task of an instance is, as Nomad says.
type Task int

// The states of a task.
const (
	TaskPending Task = iota // not started yet, or ended and to be started again
	TaskRunning
)

// Sight is what is known of an instance when it is judged.
type Sight struct {
	Task    Task
	TaskWhy string    // what Nomad says of a task that does not run
	Started time.Time // when the task's process was started
	// Stop is why the instance is to end or to pause; empty if it is not.
	Stop string
	// GPU is why a GPU of it cannot be used; empty if all can.
	GPU string
	// Look is a new look at the server, nil if there was none.
	Look *engine.Look
	// NeedsWarmUp is set where a warm-up request is configured.
	NeedsWarmUp bool
	// WarmUp is the outcome of the warm-up request that was asked for, nil if
	// there is no news of it.
	WarmUp *WarmUpOutcome
	// Asleep is set where the agent itself put the server to sleep, for servers
	// that do not tell.
	Asleep bool
	// Woken is when the agent last asked the server to wake.
	Woken time.Time
}

// WarmUpOutcome is how a warm-up request went.
type WarmUpOutcome struct{ Err error }

// Machine is one instance's place among the states, and what must be
// remembered for the next step. The zero value is an instance that was just
// found.
type Machine struct {
	State   fleet.InstanceState
	Since   time.Time
	Why     string
	Changes int

	// Ask is set while the warm-up request is to be sent. It stays set until
	// its outcome is seen.
	Ask bool
	// Took is how long the last warm-up took, and TookFrom the state in which
	// it began; zero if the agent was not there to see.
	Took     time.Duration
	TookFrom fleet.InstanceState
	Warmed   time.Time // when Took was measured

	started  time.Time // of the process that the rest is about
	stateOf  time.Time // start of the process that the state is about
	seen     time.Time // when the process was first seen
	wasReady bool      // the process was ready before
	unready  bool      // the process was seen before it was ready
	answered bool      // the process answered its warm-up request
	good     int       // looks in a row
	bad      int
	lastGood time.Time
	silent   bool   // the last look got no answer
	health   string // of the last look, for people
	asked    time.Time
	failures int // of the warm-up request
	refused  string

	busy      time.Time // when it last had work
	idle      bool      // it had none when it last told
	told      time.Time // when it last told of its load
	fullSince time.Time
	roomSince time.Time

	falls     int
	heldUntil time.Time
	slept     bool
}

// Adopted is the machine of an instance that an earlier run of the agent knew,
// with the process that was started then. If it was left ready it stays so unless
// it is seen otherwise, so that a restart of the agent is not seen by anybody. took
// is how long its warm-up took, 0 if that is not known.
func Adopted(started, now time.Time, ready bool, took time.Duration) Machine {
	m := Machine{started: started, stateOf: started, seen: now, wasReady: ready || took > 0, answered: ready || took > 0}
	if took > 0 {
		m.Took, m.TookFrom = took, fleet.Cold
	}
	if ready {
		m.State, m.Since, m.Why = fleet.Warm, now, "was ready when the agent started"
		m.lastGood, m.good = now, DefaultRules().GoodLooks
	}
	return m
}

// Step is one step: what an instance is after what was seen of it. It depends
// on nothing else. The order of its rules is that of their weight.
func Step(m Machine, s Sight, r Rules, now time.Time) Machine {
	m = m.note(s, r, now)
	state, why := m.judge(s, r, now)
	if state == fleet.Unhealthy && m.State != fleet.Unhealthy {
		m.falls++
		m.heldUntil = now.Add(hold(m.falls, r))
	}
	if state.Ready() && !m.State.Ready() {
		m = m.ready(s, now)
	}
	if state != m.State {
		if m.State != "" {
			m.Changes++
		}
		m.State, m.Since = state, now
	}
	m.Why, m.stateOf = why, m.started
	m.Ask = m.wantsWarmUp(s, now) && state == fleet.Warming
	return m
}

// hold is how long the n-th fall keeps an instance out.
func hold(n int, r Rules) time.Duration {
	d := r.FirstHold
	for ; n > 1 && d < r.LastHold; n-- {
		d *= 2
	}
	return min(d, r.LastHold)
}

// note takes what was seen into what is remembered.
func (m Machine) note(s Sight, r Rules, now time.Time) Machine {
	if s.Task != TaskRunning {
		m.good, m.bad, m.unready, m.answered, m.slept = 0, 0, true, false, false
		m.Took, m.TookFrom = 0, ""
	} else if !s.Started.Equal(m.started) {
		// What is remembered is of another process. One that runs when it is
		// first seen may have been ready for days.
		m.good, m.bad, m.answered, m.failures, m.refused, m.slept = 0, 0, false, 0, "", false
		m.unready = m.unready || !m.started.IsZero()
		m.started, m.seen, m.wasReady = s.Started, now, false
		m.lastGood, m.asked, m.health = time.Time{}, time.Time{}, ""
		m.busy, m.idle, m.told, m.fullSince, m.roomSince = time.Time{}, false, time.Time{}, time.Time{}, time.Time{}
		m.Took, m.TookFrom = 0, ""
	}
	if s.WarmUp != nil {
		m.asked = now
		if m.answered = s.WarmUp.Err == nil; !m.answered {
			m.failures++
			m.refused = s.WarmUp.Err.Error()
		}
	}
	if s.Look != nil && s.Task == TaskRunning {
		m = m.noteLook(*s.Look, s, r, now)
	}
	if m.State.Ready() && now.Sub(m.Since) >= r.Forgive {
		m.falls = 0
	}
	return m
}

func (m Machine) noteLook(l engine.Look, s Sight, r Rules, now time.Time) Machine {
	m.health, m.silent = l.Detail, l.Health == engine.Silent
	asleep := s.Asleep
	if l.Asleep != nil {
		asleep = *l.Asleep
	}
	m.slept = asleep && l.Health != engine.Closed
	switch {
	case asleep:
		m.good, m.bad = 0, 0
	case l.Health == engine.Ready:
		m.good, m.bad, m.lastGood = m.good+1, 0, now
	default:
		m.good, m.bad, m.unready = 0, m.bad+1, true
	}
	if l.Reading == nil {
		return m
	}
	running, waiting, kv := l.Reading.Gauges[engine.Running], l.Reading.Gauges[engine.Waiting], l.Reading.Gauges[engine.KVUsed]
	slots, limited := l.Reading.Gauges[engine.Slots]
	m.told = now
	if m.idle = running == 0 && waiting == 0; !m.idle {
		m.busy = now
	}
	if waiting > 0 || kv > r.FullKV || limited && slots > 0 && running >= slots {
		m.roomSince = time.Time{}
		if m.fullSince.IsZero() {
			m.fullSince = now
		}
	} else {
		m.fullSince = time.Time{}
		if m.roomSince.IsZero() {
			m.roomSince = now
		}
	}
	return m
}

// judge is the state that follows, and why.
func (m Machine) judge(s Sight, r Rules, now time.Time) (fleet.InstanceState, string) {
	switch {
	case s.Stop != "":
		return fleet.Draining, s.Stop
	case s.Task != TaskRunning:
		return fleet.Cold, orElse(s.TaskWhy, "its task does not run")
	case s.GPU != "":
		return fleet.Unhealthy, s.GPU
	case m.State == fleet.Unhealthy && !m.freshProcess() && now.Before(m.heldUntil):
		return fleet.Unhealthy, orElse(m.unwell(), fmt.Sprintf("is well again; held back until it was for %s", hold(m.falls, r)))
	case m.slept:
		return fleet.Asleep, "the server sleeps"
	case m.good >= r.GoodLooks && !m.needsAnswer(s):
		return m.load(r, now)
	case m.State.Ready() && !m.freshProcess():
		if m.bad >= r.BadLooks && now.Sub(m.lastGood) >= m.patience(r) {
			return fleet.Unhealthy, fmt.Sprintf("%d bad looks in a row: %s", m.bad, m.health)
		}
		return m.load(r, now)
	case m.State == fleet.Unhealthy && !m.freshProcess():
		return fleet.Unhealthy, orElse(m.unwell(), "not ready in enough looks yet")
	case m.State == fleet.Asleep && !m.freshProcess():
		return fleet.Asleep, "wakes: " + orElse(m.health, "not looked at yet")
	case now.Sub(m.seen) > r.WarmingLimit && m.State == fleet.Warming:
		return fleet.Unhealthy, fmt.Sprintf("not ready within %s: %s", r.WarmingLimit, orElse(m.health, "not looked at yet"))
	}
	return fleet.Warming, m.warming(s, r)
}

// patience is how long a ready instance may have no good look.
func (m Machine) patience(r Rules) time.Duration {
	if m.silent {
		return r.SilentFor
	}
	return r.BadFor
}

// freshProcess says whether the state is that of a process before this one.
func (m Machine) freshProcess() bool { return !m.started.Equal(m.stateOf) }

// unwell is what the last look saw that is not good, empty if it was good.
func (m Machine) unwell() string {
	if m.good > 0 {
		return ""
	}
	return m.health
}

func (m Machine) needsAnswer(s Sight) bool { return s.NeedsWarmUp && !m.answered }

// warming says what a warming instance waits for.
func (m Machine) warming(s Sight, r Rules) string {
	switch {
	case m.good >= r.GoodLooks && m.refused != "" && m.needsAnswer(s):
		return "warm-up request: " + m.refused
	case m.good >= r.GoodLooks && m.needsAnswer(s):
		return "is ready, and is sent the warm-up request"
	}
	return orElse(m.health, "its task runs")
}

// holds is for how long the load stands that a server told last.
const holds = time.Minute

// load tells the ready states apart. A server that does not tell its load is
// warm.
func (m Machine) load(r Rules, now time.Time) (fleet.InstanceState, string) {
	if m.told.IsZero() || now.Sub(m.told) > holds {
		return fleet.Warm, orElse(m.health, m.Why)
	}
	full := !m.fullSince.IsZero() && now.Sub(m.fullSince) >= r.FullAfter
	stillFull := m.State == fleet.Saturated && (m.roomSince.IsZero() || now.Sub(m.roomSince) < r.Dwell)
	switch {
	case full || stillFull:
		return fleet.Saturated, fmt.Sprintf("requests have waited, or all slots or %.0f %% of the KV cache been in use, for %s", 100*r.FullKV, r.FullAfter)
	case !m.busy.IsZero() && (!m.idle || now.Sub(m.busy) < r.Dwell):
		return fleet.Serving, "works on requests"
	}
	return fleet.Warm, orElse(m.health, m.Why)
}

// ready measures how long it took to become ready.
func (m Machine) ready(s Sight, now time.Time) Machine {
	switch {
	case m.State == fleet.Asleep && s.Woken.After(m.Since):
		m.Took, m.TookFrom, m.Warmed = now.Sub(s.Woken), fleet.Asleep, now
	case m.State == fleet.Warming && m.unready && !m.wasReady:
		m.Took, m.TookFrom, m.Warmed = now.Sub(m.started), fleet.Cold, now
	}
	m.wasReady = true
	return m
}

// Back-off between warm-up requests that fail.
const (
	firstAgain = 5 * time.Second
	lastAgain  = time.Minute
)

func (m Machine) wantsWarmUp(s Sight, now time.Time) bool {
	if !m.needsAnswer(s) || m.good < 1 {
		return false
	}
	again := firstAgain
	for n := m.failures; n > 1 && again < lastAgain; n-- {
		again *= 2
	}
	return m.failures == 0 || now.Sub(m.asked) >= min(again, lastAgain)
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}
