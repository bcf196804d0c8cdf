package live

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/control"
	"github.com/gpupool/gpupool/internal/pool"
)

// RunnerConfig is what a runner works with.
type RunnerConfig struct {
	Pool   string
	Site   *Site
	Consul *consul.Client
	Limits pool.Limits
	// Poll is the time between ticks while nothing is under way. After a tick
	// that did something the next one comes after a fifth of it, since the
	// next step usually only waits for another look.
	Poll time.Duration
	// Lease says how the lease is held. Its Holder is written into want and
	// status records too.
	Lease consul.LeaseConfig
	Log   hclog.Logger
}

// Runner holds a pool's lease and ticks its control loop while it does. Its
// state answers from memory, so that a plugin's calls never wait for a server.
type Runner struct {
	cfg     RunnerConfig
	records *consul.Pool
	lease   *consul.Lease
	loop    *control.Loop
	log     hclog.Logger
	kick    chan struct{} // asks for a tick now
	done    chan struct{} // closed when Run has returned

	mu    sync.Mutex
	state State
	want  consul.Want // as last read or written

	// Only the goroutine of Run touches these.
	since    map[string]time.Time  // by host, when its phase began
	phase    map[string]pool.Phase // by host, as last told
	lastErr  string
	lastNote string
	told     time.Time // when the status was last published
}

// State is what a runner knows, as of its last tick.
type State struct {
	Holder    bool      // it holds the lease, so it is this process that acts
	Why       string    // why it does not act: lease, Consul, Nomad; empty if it does
	Want      int       // hosts
	WantKnown bool      // false until a count was ever wanted, or adopted
	TickAt    time.Time // when the last tick that decided something ended
	Decision  pool.Decision
}

// NewRunner makes a runner. It does no I/O.
func NewRunner(cfg RunnerConfig) *Runner {
	r := &Runner{
		cfg: cfg, records: cfg.Consul.Pool(cfg.Pool), log: cfg.Log.With("pool", cfg.Pool),
		kick: make(chan struct{}, 1), done: make(chan struct{}),
		since: map[string]time.Time{}, phase: map[string]pool.Phase{},
		state: State{Why: "starting"},
	}
	r.lease = r.records.NewLease(cfg.Lease)
	r.loop = control.New(control.Config{
		World: cfg.Site, Store: store{r}, Limits: cfg.Limits, Ambiguous: Ambiguous,
		Lease: func(now time.Time) (uint64, time.Time, bool) {
			h, ok := r.lease.Held(now)
			return h.Gen, h.Until, ok
		},
	})
	return r
}

// State is what the runner knows now.
func (r *Runner) State() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// Run ticks until ctx ends. The lease is given back last: the moment that it
// is free another process acts.
func (r *Runner) Run(ctx context.Context) {
	defer close(r.done)
	held, release := context.WithCancel(context.WithoutCancel(ctx))
	var lease sync.WaitGroup
	lease.Go(func() { r.lease.Run(held) })
	defer lease.Wait()
	defer release()
	defer r.cfg.Site.Close() //nolint:errcheck // nothing is left to do about it

	for ctx.Err() == nil {
		next := r.tick(ctx)
		select {
		case <-ctx.Done():
		case <-r.kick:
		case <-time.After(next):
		}
	}
}

// Done is closed when Run has returned and the lease was given back.
func (r *Runner) Done() <-chan struct{} { return r.done }

// tick runs the loop once and returns how long to wait for the next.
func (r *Runner) tick(ctx context.Context) time.Duration {
	report, err := r.safeTick(ctx)
	switch {
	case ctx.Err() != nil:
		return 0
	case errors.Is(err, control.ErrNotHolder):
		r.idle(ctx)
		return min(r.cfg.Poll, time.Second)
	case err != nil:
		r.trouble(err)
		return r.cfg.Poll
	case !report.WantKnown:
		r.adopt(ctx, report)
		return r.cfg.Poll / 5
	}
	r.tell(ctx, report)
	if len(report.Outcomes) > 0 {
		return r.cfg.Poll / 5
	}
	return r.cfg.Poll
}

// safeTick keeps a bug in a tick from ending the plugin, which nothing would
// start again.
func (r *Runner) safeTick(ctx context.Context) (report control.Report, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in the control loop: %v", p)
		}
	}()
	return r.loop.Tick(ctx)
}

// idle keeps a process that is not the holder informed, so that it can answer
// at once when it becomes one.
func (r *Runner) idle(ctx context.Context) {
	why := "another process holds the lease of this pool"
	if err := r.lease.Err(); err != nil {
		why = err.Error()
	}
	want, err := r.records.Want(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.Holder, r.state.Why = false, why
	if err == nil {
		r.want, r.state.Want, r.state.WantKnown = want, want.Count, true
	}
}

func (r *Runner) trouble(err error) {
	if text := err.Error(); text != r.lastErr {
		r.lastErr = text
		r.log.Error("no decision", "error", text)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_, r.state.Holder = r.lease.Held(time.Now())
	r.state.Why = err.Error()
}

// adopt writes a first wanted count: what is there. It happens once in a
// pool's life, or after all records were lost.
func (r *Runner) adopt(ctx context.Context, report control.Report) {
	have := report.Decision.Have
	err := r.SetWant(ctx, have, fmt.Sprintf("adopted: %d hosts were in service when no count had been wanted yet", have))
	if err != nil {
		r.trouble(err)
	}
}

// ErrUnchanged is what SetWant answers for the count that is wanted already.
var ErrUnchanged = errors.New("already wanted")

// SetWant writes the wanted count, last writer wins, and asks for a tick.
func (r *Runner) SetWant(ctx context.Context, n int, reason string) error {
	for try := 0; ; try++ {
		r.mu.Lock()
		w := r.want
		r.mu.Unlock()
		if w.Rev != 0 && w.Count == n {
			return ErrUnchanged
		}
		w.Count, w.Reason, w.By, w.At = n, reason, r.cfg.Lease.Holder, time.Now().UTC()
		w, err := r.records.SetWant(ctx, w)
		switch {
		case err == nil:
			r.setWant(w)
			r.log.Info("want", "count", n, "reason", reason)
			select {
			case r.kick <- struct{}{}:
			default:
			}
			return nil
		case !errors.Is(err, consul.ErrStale) || try == 3:
			return err
		}
		// Somebody wrote meanwhile: an operator, or an autoscaler that holds
		// the lease no longer. Write over what is there now, which is nothing
		// if the record was deleted.
		switch w, err = r.records.Want(ctx); {
		case errors.Is(err, consul.ErrNotFound):
			r.forgetWant()
		case err != nil:
			return err
		default:
			r.setWant(w)
		}
	}
}

func (r *Runner) setWant(w consul.Want) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.Rev >= r.want.Rev {
		r.want, r.state.Want, r.state.WantKnown = w, w.Count, true
	}
}

// forgetWant is for a record that is not there any more.
func (r *Runner) forgetWant() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.want, r.state.WantKnown = consul.Want{}, false
}

// tell logs what changed, keeps the state, and publishes it for `gpupool
// status`.
func (r *Runner) tell(ctx context.Context, report control.Report) {
	r.lastErr = ""
	changed := r.logPhases(report)
	for _, o := range report.Outcomes {
		if o.Done {
			r.log.Info("did", "host", o.Host, "do", o.Do.String(), "why", o.Why, "gen", report.Gen)
		} else {
			r.log.Warn("could not", "host", o.Host, "do", o.Do.String(), "why", o.Why, "gen", report.Gen, "error", o.Err)
		}
	}
	if note := report.Decision.Note; note != r.lastNote {
		r.lastNote, changed = note, true
		if note != "" {
			r.log.Info("note", "note", note)
		}
	}
	r.mu.Lock()
	r.state.Holder, r.state.Why = true, ""
	r.state.TickAt, r.state.Decision = report.At, report.Decision
	r.mu.Unlock()

	if changed || time.Since(r.told) > time.Minute {
		if err := r.publish(ctx, report); err != nil {
			r.log.Warn("cannot publish the status", "error", err)
			return
		}
		r.told = time.Now()
	}
}

// logPhases logs one line for each host whose phase changed, and reports
// whether the status is worth publishing again.
func (r *Runner) logPhases(report control.Report) bool {
	changed := len(report.Outcomes) > 0
	for _, h := range report.Decision.Hosts {
		from, known := r.phase[h.ID]
		if known && from == h.Phase {
			continue
		}
		changed = true
		r.phase[h.ID], r.since[h.ID] = h.Phase, report.At
		r.log.Info("phase", "host", h.ID, "from", from.String(), "to", h.Phase.String(), "why", h.Why, "power", h.Power.String())
	}
	if old := r.State().Decision; !changed && len(old.Hosts) == len(report.Decision.Hosts) {
		for i, h := range report.Decision.Hosts {
			changed = changed || h != old.Hosts[i]
		}
	}
	return changed
}

func (r *Runner) publish(ctx context.Context, report control.Report) error {
	s := consul.Status{Want: report.Want, At: report.At}
	for _, h := range report.Decision.Hosts {
		s.Hosts = append(s.Hosts, consul.HostStatus{
			ID: h.ID, Power: h.Power.String(), Phase: h.Phase.String(), GPUs: h.GPUs, GPUsBusy: h.GPUsBusy,
			Why: h.Why, Since: r.since[h.ID],
		})
	}
	return r.records.PutStatus(ctx, r.lease, s)
}

// store is the pool's records under the runner's lease, as the loop wants
// them. Reading the wanted count keeps the runner's memory of it fresh.
type store struct{ r *Runner }

func (s store) Want(ctx context.Context) (int, bool, error) {
	w, err := s.r.records.Want(ctx)
	switch {
	case errors.Is(err, consul.ErrNotFound):
		s.r.forgetWant()
		return 0, false, nil
	case err != nil:
		return 0, false, err
	}
	s.r.setWant(w)
	return w.Count, true, nil
}

func (s store) Intents(ctx context.Context) (map[string]pool.Intent, error) {
	return s.r.records.Intents(ctx)
}

func (s store) Record(ctx context.Context, host string, in pool.Intent) (pool.Intent, error) {
	if in.SettledAt.IsZero() {
		return s.r.records.Intend(ctx, s.r.lease, host, in)
	}
	return s.r.records.Settle(ctx, s.r.lease, host, in)
}
