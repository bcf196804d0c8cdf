package instance

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/engine"
	"github.com/gpupool/gpupool/internal/fleet"
)

// watch looks at one instance until ctx ends.
func (w *Watcher) watch(ctx context.Context, i *watched) {
	for undetected := 0; ctx.Err() == nil; {
		known, running := w.turn(ctx, i)
		pause := time.Duration(0)
		if !known && running {
			undetected++
			pause = min(time.Duration(undetected)*w.cfg.Period, w.patience(i))
		} else {
			undetected = 0
		}
		sleep(ctx, pause)
		sleep(ctx, time.Until(w.beat(time.Now())))
	}
}

// beat is when the instances are looked at next. All are at once: a host that
// wakes once a second has more time for its work than one that wakes for each.
func (w *Watcher) beat(now time.Time) time.Time {
	periods := now.Sub(w.began)/w.cfg.Period + 1
	return w.began.Add(periods * w.cfg.Period)
}

// patience is how long at most it takes from one attempt to find out what a task
// is to the next. One that has run for long will hardly turn out to be a model
// server.
func (w *Watcher) patience(i *watched) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(i.started) < w.cfg.Rules.WarmingLimit {
		return detectSoon
	}
	return detectLate
}

// turn is one look at one instance, and what follows from it.
func (w *Watcher) turn(ctx context.Context, i *watched) (known, running bool) {
	w.mu.Lock()
	target, started, run := i.target(), i.started, i.task == TaskRunning && i.address != ""
	w.mu.Unlock()
	var look *engine.Look
	if run {
		if target.Profile.Name == "" {
			profile, known := w.cfg.Servers.Detect(ctx, target.Address)
			if !known {
				return false, true
			}
			w.name(i, profile, started)
			return true, true
		}
		l := w.cfg.Servers.Look(ctx, target)
		look = &l
	}
	if ctx.Err() != nil {
		return true, run
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if look != nil && !started.Equal(i.started) {
		look = nil // it is of the process before
	}
	if look != nil {
		i.note(*look, now)
	}
	w.step(i, look, nil, now)
	if i.machine.Ask && !i.sending {
		i.sending = true
		w.running.Go(func() { w.warmUp(ctx, i, target, started) })
	}
	return true, run
}

// target is what to ask of an instance: its load each time; the counters and
// histograms that rates and quantiles are made of, and its models, every tenth time;
// and whether it sleeps every sixtieth time if it could not be asked.
func (i *watched) target() engine.Target {
	t := engine.Target{Profile: i.profile, Address: i.address, Metrics: i.metrics}
	i.looked++
	t.Mute = i.mute && i.looked%60 != 1
	t.Brief = i.looked%10 != 1
	if i.machine.State.Ready() && t.Brief {
		t.Models = i.models
	}
	return t
}

// name is called when it was found out what a server is.
func (w *Watcher) name(i *watched, p engine.Profile, started time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if i.started.Equal(started) && i.profile.Name == "" {
		i.profile = i.settings.apply(p)
		w.cfg.Log.Info("found out what an instance is", "instance", i.id, "job", i.place.Job, "engine", p.Name)
	}
}

// warmUp sends the warm-up request.
func (w *Watcher) warmUp(ctx context.Context, i *watched, target engine.Target, started time.Time) {
	w.mu.Lock()
	s := i.settings
	w.mu.Unlock()
	limited, cancel := context.WithTimeout(ctx, s.warmUpTime)
	defer cancel()
	err := w.cfg.Servers.WarmUp(limited, target, s.warmUpPath, s.warmUpBody)
	w.mu.Lock()
	defer w.mu.Unlock()
	i.sending = false
	if started.Equal(i.started) && ctx.Err() == nil {
		w.step(i, nil, &WarmUpOutcome{err}, time.Now())
	}
}

// note takes a look's news.
func (i *watched) note(l engine.Look, now time.Time) {
	i.probe = ""
	i.mute = (i.mute || l.Mute) && l.Asleep == nil
	if l.Err != nil {
		i.probe = clean(l.Err.Error())
	}
	if l.Flaw != "" {
		i.flaws[l.Flaw]++
	}
	if len(l.Models) > 0 {
		i.models = l.Models
	}
	if l.Reading == nil {
		return
	}
	if s := i.settings.slots; s > 0 {
		l.Reading.Gauges[engine.Slots] = float64(s)
	}
	i.window.Add(*l.Reading, now)
	for flaw, n := range l.Reading.Flaws {
		i.flaws[flaw] += uint64(n)
	}
	fresh := map[fleet.Signal]value{}
	set := func(s fleet.Signal, v float64, known bool) {
		switch {
		case known && v > mostOf(s):
			i.flaws[engine.FlawTooLarge]++
		case known:
			fresh[s] = value{v, now}
		}
	}
	gauge := func(s fleet.Signal, m engine.Measure) {
		v, known := l.Reading.Gauges[m]
		set(s, v, known)
	}
	rate := func(s fleet.Signal, m engine.Measure) {
		v, known := i.window.Rate(m, now)
		set(s, v, known)
	}
	quantile := func(s fleet.Signal, m engine.Measure, q float64) {
		v, known := i.window.Quantile(m, q, now)
		set(s, v, known)
	}
	gauge(fleet.Waiting, engine.Waiting)
	gauge(fleet.Running, engine.Running)
	gauge(fleet.Slots, engine.Slots)
	gauge(fleet.KVUsed, engine.KVUsed)
	rate(fleet.Preemptions, engine.Preemptions)
	rate(fleet.Finished, engine.Finished)
	quantile(fleet.TTFTMedian, engine.TTFT, 0.5)
	quantile(fleet.TTFTP95, engine.TTFT, 0.95)
	quantile(fleet.ITLMedian, engine.ITL, 0.5)
	quantile(fleet.ITLP95, engine.ITL, 0.95)
	quantile(fleet.QueueP95, engine.QueueTime, 0.95)
	quantile(fleet.LatencyP95, engine.Latency, 0.95)
	i.values = fresh
}

// mostOf is the largest value of a signal that readers take.
func mostOf(s fleet.Signal) float64 {
	for _, one := range fleet.Signals {
		if one.Signal == s {
			return one.Max
		}
	}
	return 0
}

// step takes one step of an instance's machine, and tells of what changed.
func (w *Watcher) step(i *watched, look *engine.Look, warmUp *WarmUpOutcome, now time.Time) {
	before := i.machine
	rules := w.cfg.Rules
	rules.WarmingLimit = cmp.Or(i.settings.warmingLimit, rules.WarmingLimit)
	i.machine = Step(before, Sight{
		Task: i.task, TaskWhy: i.why, Started: i.started,
		Stop: cmp.Or(i.stop, w.hold, i.hold),
		GPU:  w.unusable(i),
		Look: look, NeedsWarmUp: i.settings.warmUpPath != "", WarmUp: warmUp,
		Asleep: i.asleep, Woken: i.woken,
	}, rules, now)
	m := i.machine
	if m.Took > 0 && m.Warmed.After(i.warmedAt) {
		i.warmedAt = m.Warmed
		w.learned.add(warmUpKey{first(i.models), w.gpuName(i), m.TookFrom}, m.Took)
	}
	if m.State == before.State {
		return
	}
	w.notify()
	if i.profile.Name != "" {
		w.cfg.Log.Info("instance", "state", m.State, "was", before.State, "instance", i.id, "job", i.place.Job, "why", m.Why)
	}
}

// unusable is why a GPU of an instance cannot be used, empty if all can or it is
// not known. A degraded one is used on: what it has loaded is worth more than
// what it lacks.
func (w *Watcher) unusable(i *watched) string {
	if len(i.place.GPUs) == 0 {
		return ""
	}
	for _, g := range w.cfg.GPUs() {
		switch {
		case !slices.ContainsFunc(i.place.GPUs, func(id string) bool { return isOf(g, id) }):
		case g.State == fleet.StateLost, g.State == fleet.StateUnresponsive:
			return fmt.Sprintf("%s is %s", g.UUID, g.State)
		case g.Health.Verdict == fleet.HealthFailed:
			return clean(fmt.Sprintf("%s has failed: %s", g.UUID, strings.Join(g.Health.Why, ", ")))
		}
	}
	return ""
}

// isOf says whether a device that Nomad gave away is a GPU or a part of it.
func isOf(g fleet.GPU, id string) bool {
	return g.UUID == id || slices.ContainsFunc(g.MIG.Devices, func(d fleet.MIGDevice) bool { return d.UUID == id })
}
