package instance

import (
	"context"
	"log/slog"
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
	// GPUs are the GPUs as they were a moment ago. It is called often, and must
	// not block.
	GPUs func() []fleet.GPU
	// Pattern is the name of the Consul services; see [ServiceName].
	Pattern string
	Period  time.Duration // between looks at the servers, all of which are looked at at once
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
	adoptFor   = time.Minute
	firstRetry = time.Second
	lastRetry  = 15 * time.Second
	detectSoon = 5 * time.Second
	detectLate = time.Minute
)

// Watcher knows the model servers of this host.
type Watcher struct {
	cfg     Config
	began   time.Time
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
	mute     bool   // the process does not answer whether it sleeps
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
	return &Watcher{cfg: cfg, began: time.Now(), changed: make(chan struct{}, 1), found: map[string]*watched{}, learned: learned{}}
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
	i.models, i.probe, i.values, i.asleep, i.mute = nil, "", map[fleet.Signal]value{}, false, false
	i.window.Reset()
	i.looked = 0
}
