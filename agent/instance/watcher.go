package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	consul "github.com/hashicorp/consul/api"
	"github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/agent/register"
	"github.com/gpupool/gpupool/internal/engine"
	"github.com/gpupool/gpupool/internal/fleet"
)

// Config is what a [Watcher] needs.
type Config struct {
	// Allocs reads the allocations of this host. With an index it waits for
	// a change; it returns the next index, 0 to begin anew.
	Allocs func(ctx context.Context, index uint64) ([]*api.Allocation, uint64, error)
	// Servers asks the model servers.
	Servers *engine.Client
	// GPUs are the GPUs as they are now. It must not block.
	GPUs func() []fleet.GPU
	// Pattern is the name of the Consul services; see [ServiceName].
	Pattern string
	Period  time.Duration // between looks at a server
	Rules   Rules
	Log     *slog.Logger
}

// Times that do not depend on the configuration.
const (
	// staleAfter is how many periods a value may be old.
	staleAfter = 3
	// forgetAfter is how old a list of allocations may be that is called
	// known.
	forgetAfter = 2 * time.Minute
	// adoptFor is how long what an earlier run left passing stays so while
	// Nomad does not say what is there.
	adoptFor    = time.Minute
	firstRetry  = time.Second
	lastRetry   = 15 * time.Second
	detectEvery = time.Minute // at most, for a task that may be no model server
)

// Watcher knows the model servers of this host.
type Watcher struct {
	cfg     Config
	changed chan struct{}
	running sync.WaitGroup

	mu      sync.Mutex
	found   map[string]*watched
	read    time.Time // when Nomad last said what is there
	err     error     // why it cannot be read now
	hold    string    // why no instance of this host is to get requests
	left    map[string]register.Entry
	leftAt  time.Time
	learned learned
}

// watched is one instance.
type watched struct {
	candidate
	machine Machine
	cancel  context.CancelFunc

	models   []string
	values   map[fleet.Signal]value
	window   engine.Window
	looked   int
	probe    string // why the last look failed
	flaws    map[engine.Flaw]uint64
	hold     string // why this one is to get no requests
	gpu      string // name of its GPU's model, as an earlier run of the agent knew it
	asleep   bool   // the agent put it to sleep
	woken    time.Time
	sending  bool // a warm-up request is on its way
	acting   sync.Mutex
	warmedAt time.Time // the last warm-up that was learned from
}

type value struct {
	v  float64
	at time.Time
}

// New makes a watcher, which does nothing until Run.
func New(cfg Config) *Watcher {
	return &Watcher{cfg: cfg, changed: make(chan struct{}, 1), found: map[string]*watched{}, learned: learned{}}
}

// Changed has a value when Entries changed.
func (w *Watcher) Changed() <-chan struct{} { return w.changed }

func (w *Watcher) notify() {
	select {
	case w.changed <- struct{}{}:
	default: // it is known already
	}
}

// Adopt takes over what an earlier run of the agent left in Consul. Call it
// before Run, and before Consul is told of Entries.
func (w *Watcher) Adopt(left map[string]register.Entry, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left, w.leftAt = left, now
}

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	defer w.running.Wait()
	retry := firstRetry
	for index := uint64(0); ctx.Err() == nil; {
		allocs, next, err := w.cfg.Allocs(ctx, index)
		if err != nil {
			w.unread(ctx, err)
			index = 0
			sleep(ctx, retry)
			retry = min(2*retry, lastRetry)
			continue
		}
		retry = firstRetry
		if next == index && index != 0 {
			w.reread(time.Now())
			continue // the wait is over and nothing has changed
		}
		index = next
		w.take(ctx, find(allocs), time.Now())
		if index == 0 {
			sleep(ctx, firstRetry)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (w *Watcher) unread(ctx context.Context, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil && ctx.Err() == nil {
		w.cfg.Log.Warn("Nomad does not say what runs on this host, will try again", "error", err)
	}
	w.err = err
}

func (w *Watcher) reread(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.read, w.err = now, nil
}

// take makes the candidates those that are watched.
func (w *Watcher) take(ctx context.Context, list []candidate, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		w.cfg.Log.Info("Nomad says what runs on this host again")
	}
	w.read, w.err = now, nil
	there := map[string]bool{}
	for _, c := range list {
		there[c.id] = true
		i := w.found[c.id]
		if i == nil {
			i = w.meet(ctx, c, now)
		} else if i.profile.Name != "" && c.profile.Name == "" && c.started.Equal(i.started) {
			c.profile, c.metrics = i.profile, i.metrics // was found out
		}
		if c.task != i.task || !c.started.Equal(i.started) {
			i.forget()
		}
		i.candidate = c
		w.step(i, nil, nil, now)
	}
	for id, i := range w.found {
		if !there[id] {
			i.cancel()
			delete(w.found, id)
			w.cfg.Log.Info("an instance is gone", "instance", id, "job", i.place.Job)
		}
	}
	w.left = nil
	w.notify()
}

// meet begins to watch a candidate.
func (w *Watcher) meet(ctx context.Context, c candidate, now time.Time) *watched {
	ctx, cancel := context.WithCancel(ctx)
	i := &watched{candidate: c, cancel: cancel, flaws: map[engine.Flaw]uint64{}}
	i.forget()
	if left, there := w.left[c.id]; there {
		w.adopt(i, left, now)
	}
	w.found[c.id] = i
	if c.problem != "" {
		w.cfg.Log.Warn("an instance's settings are not right", "instance", c.id, "problem", c.problem)
	}
	w.running.Go(func() { w.watch(ctx, i) })
	return i
}

// adopt makes an instance what an earlier run of the agent said it was, as far
// as that is about the same process.
func (w *Watcher) adopt(i *watched, left register.Entry, now time.Time) {
	if reason, drained := strings.CutPrefix(left.Maintenance, byOperator); drained {
		i.hold = byOperator + clean(reason)
	}
	if left.Meta["started"] != startedText(i.started) || i.task != TaskRunning {
		return
	}
	if i.profile.Name == "" {
		if p, known := engine.Find(left.Meta["engine"]); known {
			i.profile = i.settings.apply(p)
		}
	}
	i.asleep = slices.Contains(left.Tags, string(fleet.Asleep))
	i.gpu = clean(left.Meta["gpu_name"])
	if model := left.Meta["model"]; model != "" {
		i.models = []string{clean(model)}
	}
	took := time.Duration(0)
	if s, err := strconv.ParseFloat(left.Meta["warm_up_s"], 64); err == nil && s > 0 && s < 1e6 {
		took = time.Duration(s * float64(time.Second)).Round(time.Millisecond)
		w.learned.add(warmUpKey{first(i.models), i.gpu, fleet.Cold}, took)
	}
	i.machine = Adopted(i.started, now, left.Status == consul.HealthPassing, took)
}

// forget forgets what is about a process that is not there any more.
func (i *watched) forget() {
	i.models, i.probe, i.values, i.asleep = nil, "", map[fleet.Signal]value{}, false
	i.window.Reset()
	i.looked = 0
}

// watch looks at one instance until ctx ends.
func (w *Watcher) watch(ctx context.Context, i *watched) {
	sleep(ctx, rand.N(w.cfg.Period/4+1)) // servers that start at once are not looked at at once
	ticker := time.NewTicker(w.cfg.Period)
	defer ticker.Stop()
	for undetected := 0; ctx.Err() == nil; {
		known, running := w.turn(ctx, i)
		pause := time.Duration(0)
		if !known && running {
			undetected++
			pause = min(time.Duration(undetected)*w.cfg.Period, detectEvery)
		} else {
			undetected = 0
		}
		sleep(ctx, pause)
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
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
		i.note(*look, w.cfg.Period, now)
	}
	w.step(i, look, nil, now)
	if i.machine.Ask && !i.sending {
		i.sending = true
		w.running.Go(func() { w.warmUp(ctx, i, target, started) })
	}
	return true, run
}

// target is what to ask of an instance. Models are asked for every tenth time.
func (i *watched) target() engine.Target {
	t := engine.Target{Profile: i.profile, Address: i.address, Metrics: i.metrics}
	i.looked++
	if i.machine.State.Ready() && i.looked%10 != 0 {
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
func (i *watched) note(l engine.Look, period time.Duration, now time.Time) {
	i.probe = ""
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
		if known {
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
	if len(i.place.GPUs) == 0 || w.cfg.GPUs == nil {
		return ""
	}
	for _, g := range w.cfg.GPUs() {
		switch {
		case !slices.Contains(i.place.GPUs, g.UUID):
		case g.State == fleet.StateLost, g.State == fleet.StateUnresponsive:
			return fmt.Sprintf("%s is %s", g.UUID, g.State)
		case g.Health.Verdict == fleet.HealthFailed:
			return clean(fmt.Sprintf("%s has failed: %s", g.UUID, strings.Join(g.Health.Why, ", ")))
		}
	}
	return ""
}

func (w *Watcher) gpuName(i *watched) string {
	if len(i.place.GPUs) == 0 || w.cfg.GPUs == nil {
		return ""
	}
	for _, g := range w.cfg.GPUs() {
		if g.UUID == i.place.GPUs[0] && g.Name != "" {
			return clean(g.Name)
		}
	}
	return i.gpu
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return clean(list[0])
}

// Instances are the instances as they are now.
func (w *Watcher) Instances(now time.Time) *fleet.Instances {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := &fleet.Instances{Known: true, WarmUps: w.learned.list()}
	switch {
	case w.read.IsZero():
		out.Known, out.Why = false, "Nomad has not said yet what runs on this host"
	case now.Sub(w.read) > forgetAfter:
		out.Known, out.Why = false, fmt.Sprintf("Nomad has not said for %s what runs on this host", now.Sub(w.read).Round(time.Second))
	}
	if !out.Known && w.err != nil {
		out.Why = clean(fmt.Sprintf("%s: %v", out.Why, w.err))
	}
	for _, id := range slices.Sorted(maps.Keys(w.found)) {
		if i := w.found[id]; i.profile.Name != "" {
			out.List = append(out.List, w.view(i, now))
		}
	}
	return out
}

// view is one instance as readers see it.
func (w *Watcher) view(i *watched, now time.Time) fleet.Instance {
	m := i.machine
	v := i.place
	v.GPUName = w.gpuName(i)
	v.Engine, v.Model, v.Address = i.profile.Name, first(i.models), i.address
	v.Service = ServiceName(w.cfg.Pattern, orElse(i.settings.service, v.Job), v.Namespace)
	v.State, v.For, v.Why, v.Changes = m.State, seconds(now.Sub(m.Since)), clean(m.Why), m.Changes
	v.Probe = i.probe
	if i.problem != "" {
		v.Probe = i.problem
	}
	if m.Took > 0 {
		took := seconds(m.Took)
		v.WarmUp = &took
	}
	if m.State == fleet.Warming {
		if usual, known := w.learned.median(warmUpKey{orElse(v.Model, i.lastModel(w)), v.GPUName, fleet.Cold}); known {
			left := max(0, seconds(usual-now.Sub(i.started)))
			v.Expected = &left
		}
	}
	if len(i.values) > 0 {
		v.Load = map[fleet.Signal]fleet.Value{}
	}
	for signal, one := range i.values {
		age, copied := now.Sub(one.at), one.v
		quality := fleet.QualityOK
		if age > staleAfter*max(w.cfg.Period, time.Second) {
			quality = fleet.QualityStale
		}
		v.Load[signal] = fleet.Value{Quality: quality, Value: &copied, Age: seconds(age)}
	}
	return v
}

// lastModel is the model of another instance of the same job, for an instance
// that has not named its own yet.
func (i *watched) lastModel(w *Watcher) string {
	for _, o := range w.found {
		if o.place.Job == i.place.Job && o.place.Namespace == i.place.Namespace && o.place.Task == i.place.Task && len(o.models) > 0 {
			return first(o.models)
		}
	}
	return ""
}

func seconds(d time.Duration) float64 {
	return max(0, d.Round(time.Millisecond).Seconds())
}

// Flaws are how often each flaw was seen of each instance, by ID.
func (w *Watcher) Flaws() map[string]map[engine.Flaw]uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string]map[engine.Flaw]uint64{}
	for id, i := range w.found {
		if i.profile.Name != "" {
			out[id] = maps.Clone(i.flaws)
		}
	}
	return out
}

// Entries are what Consul is to know of the instances, and whether that is all:
// before Nomad said what is there, it is not.
func (w *Watcher) Entries() (list []register.Entry, all bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(w.found)) {
		i := w.found[id]
		if i.profile.Name != "" && i.address != "" && i.machine.State != fleet.Cold {
			list = append(list, w.entry(i))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(w.left)) { // until Nomad said what is there
		e := w.left[id]
		if time.Since(w.leftAt) > adoptFor {
			e.Status, e.Text = consul.HealthCritical, "the agent does not know of it yet"
		}
		list = append(list, e)
	}
	return list, !w.read.IsZero()
}

// entry is one instance as Consul is to know it. All of it changes with the
// state only: load is not for Consul.
func (w *Watcher) entry(i *watched) register.Entry {
	v := w.view(i, time.Now())
	host, port, _ := splitAddress(i.address)
	e := register.Entry{
		ID: v.ID, Name: v.Service, Address: host, Port: port,
		Status: consul.HealthCritical, Text: register.Text(v.State),
		Tags: []string{"gpupool", v.Engine},
		Meta: map[string]string{
			"schema": strconv.Itoa(fleet.Schema), "namespace": v.Namespace, "job": v.Job, "group": v.Group, "task": v.Task, "alloc_id": v.Alloc,
			"engine": v.Engine, "started": startedText(i.started),
		},
	}
	if v.State.Ready() {
		e.Status = consul.HealthPassing
		e.Tags = append(e.Tags, string(fleet.Warm))
	} else {
		e.Tags = append(e.Tags, string(v.State))
	}
	if v.State == fleet.Draining {
		e.Maintenance = clean(i.machine.Why)
	}
	for key, text := range map[string]string{"model": v.Model, "gpu_name": v.GPUName, "gpus": strings.Join(v.GPUs, ",")} {
		if text != "" && len(text) <= 512 { // Consul's limit
			e.Meta[key] = text
		}
	}
	if v.WarmUp != nil && i.machine.TookFrom == fleet.Cold {
		e.Meta["warm_up_s"] = strconv.FormatFloat(*v.WarmUp, 'f', 3, 64)
	}
	return e
}

func startedText(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// byOperator begins the reason of an operator's drain.
const byOperator = "drained by an operator: "

// Errors of what operators ask for.
var (
	ErrUnknown  = errors.New("no such instance on this host")
	ErrNotReady = errors.New("the instance is not in a state for that")
)

// Hold keeps all instances of this host out of Consul's answers, as before a
// host goes down; an empty reason ends it.
func (w *Watcher) Hold(reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hold = clean(reason)
	for _, i := range w.found {
		w.step(i, nil, nil, time.Now())
	}
}

// Drain takes an instance out until Undrain. It outlives the agent.
func (w *Watcher) Drain(id, reason string) error { return w.setHold(id, byOperator+clean(reason)) }

// Undrain ends what Drain began.
func (w *Watcher) Undrain(id string) error { return w.setHold(id, "") }

func (w *Watcher) setHold(id, reason string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := w.found[id]
	if i == nil {
		return fmt.Errorf("instance %.128q: %w", id, ErrUnknown)
	}
	i.hold = reason
	w.step(i, nil, nil, time.Now())
	return nil
}

// Sleep takes an instance out, waits until it has nothing to do, and puts its
// server to sleep. If that fails it is given back.
func (w *Watcher) Sleep(ctx context.Context, id string) error {
	w.mu.Lock()
	i := w.found[id]
	w.mu.Unlock()
	if i == nil {
		return fmt.Errorf("instance %.128q: %w", id, ErrUnknown)
	}
	i.acting.Lock()
	defer i.acting.Unlock()
	w.mu.Lock()
	state, held, target := i.machine.State, i.hold != "", engine.Target{Profile: i.profile, Address: i.address}
	w.mu.Unlock()
	switch {
	case target.Profile.Sleep == nil:
		return fmt.Errorf("instance %s: %s: %w", id, target.Profile.Title, engine.ErrCannotSleep)
	case !state.Ready() || held:
		return fmt.Errorf("instance %s is %s: %w", id, state, ErrNotReady)
	}
	if err := w.setHold(id, "is put to sleep"); err != nil {
		return err
	}
	defer w.setHold(id, "") //nolint:errcheck // it went away meanwhile
	if err := w.idle(ctx, i); err != nil {
		return fmt.Errorf("instance %s: %w", id, err)
	}
	if err := w.cfg.Servers.Sleep(ctx, target); err != nil {
		return fmt.Errorf("instance %s: %w", id, err)
	}
	w.mu.Lock()
	i.asleep = true
	w.mu.Unlock()
	w.turn(ctx, i) // sees it asleep before the hold ends
	return nil
}

// idle waits until an instance that gets no new requests has none left.
func (w *Watcher) idle(ctx context.Context, i *watched) error {
	// Whoever asked Consul a moment ago may still send a request.
	sleep(ctx, 2*time.Second)
	for {
		w.mu.Lock()
		running, known := i.values[fleet.Running]
		waiting := i.values[fleet.Waiting]
		fresh := known && time.Since(running.at) < staleAfter*w.cfg.Period
		w.mu.Unlock()
		if fresh && running.v == 0 && waiting.v == 0 {
			return nil
		}
		sleep(ctx, w.cfg.Period)
		if ctx.Err() != nil {
			return fmt.Errorf("it still works on requests, or does not say: %w", ctx.Err())
		}
	}
}

// Wake wakes an instance that sleeps. It is ready when it was seen to be.
func (w *Watcher) Wake(ctx context.Context, id string) error {
	w.mu.Lock()
	i := w.found[id]
	w.mu.Unlock()
	if i == nil {
		return fmt.Errorf("instance %.128q: %w", id, ErrUnknown)
	}
	i.acting.Lock()
	defer i.acting.Unlock()
	w.mu.Lock()
	state, target := i.machine.State, engine.Target{Profile: i.profile, Address: i.address}
	i.woken = time.Now()
	w.mu.Unlock()
	if state != fleet.Asleep {
		return fmt.Errorf("instance %s is %s: %w", id, state, ErrNotReady)
	}
	if err := w.cfg.Servers.Wake(ctx, target); err != nil {
		return fmt.Errorf("instance %s: %w", id, err)
	}
	w.mu.Lock()
	i.asleep = false
	w.mu.Unlock()
	return nil
}
