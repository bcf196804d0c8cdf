package live

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/control"
	"github.com/gpupool/gpupool/internal/pluginhost"
	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
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
	// Told hears of each tick that decided something, and of each that could
	// not, with the error and an empty report. It is called by the loop and
	// must return soon. Default nobody.
	Told func(control.Report, error)
}

// Runner holds a pool's lease and ticks its control loop while it does. Its
// state answers from memory, so that a plugin's calls never wait for a server.
type Runner struct {
	cfg     RunnerConfig
	records *consul.Pool
	lease   *consul.Lease
	loop    *control.Loop
	log     hclog.Logger
	tell    *teller       // only the goroutine of Run uses it, and first
	first   look          // of this hold at a pool of which no count was wanted
	kick    chan struct{} // asks for a tick now
	done    chan struct{} // closed when Run has returned

	mu     sync.Mutex
	want   consul.Want           // as last read or written; Rev is 0 if there is none
	last   control.Report        // of the last tick that decided
	why    string                // why the last tick did not decide; empty if it did
	times  map[string]pool.Times // as last read or learned; never changed
	joules map[string]float64    // by class, since this process began
	blind  bool                  // the record of times cannot be read, and that was logged
	beat   time.Time             // when the last tick ended, whatever came of it
}

// State is what a runner knows at one moment. What it refers to is shared and
// must not be changed.
type State struct {
	// Ready: this process holds the pool's lease, has looked at the hosts
	// since it won it, and knows what is wanted. It stays so while Nomad or a
	// BMC is away.
	Ready bool
	Why   string // why it is not ready, or decides nothing at the moment; empty if neither
	Want  int    // hosts; not more than the pool's max
	// At and Decision are of the last tick that decided, however long ago.
	At       time.Time
	Decision pool.Decision
	// Held says that this process holds the pool's lease, and Gen in which
	// generation.
	Held bool
	Gen  uint64
	// Times are how long hosts take, by class, as far as it was learned.
	Times map[string]pool.Times
	// Beat is when the last tick ended, whatever came of it; zero before the
	// first. It grows old only if the loop is stuck.
	Beat time.Time
	// Joules is an estimate of the energy that hosts of each class took since
	// this process began to act, by the figures of their classes.
	Joules map[string]float64
}

// NewRunner makes a runner. It does no I/O.
func NewRunner(cfg RunnerConfig) *Runner {
	log := cfg.Log.With("pool", cfg.Pool)
	if cfg.Told == nil {
		cfg.Told = func(control.Report, error) {}
	}
	r := &Runner{
		cfg: cfg, records: cfg.Consul.Pool(cfg.Pool), log: log, tell: newTeller(log),
		kick: make(chan struct{}, 1), done: make(chan struct{}),
	}
	r.lease = r.records.NewLease(cfg.Lease)
	r.loop = control.New(control.Config{
		World: cfg.Site, Store: store{r}, Limits: cfg.Limits, Ambiguous: Ambiguous,
		NoCapacity: func(err error) bool { return errors.Is(err, power.ErrCapacity) },
		ActTimeout: actTimeout(cfg.Lease.TTL),
		Lease: func(now time.Time) (uint64, time.Time, bool) {
			h, ok := r.lease.Held(now)
			return h.Gen, h.Until, ok
		},
	})
	return r
}

// actTimeout is the longest that one act may take under a lease of that TTL. A
// lease that is well has between 7/15 of its TTL left, just before a renewal,
// and 12/15, just after: an act that wanted more than the former could be begun
// only at times, or never.
func actTimeout(ttl time.Duration) time.Duration {
	return cmp.Or(ttl, consul.DefaultTTL) * 2 / 5
}

// State is what the runner knows now. It waits for nothing.
func (r *Runner) State() State {
	hold, held := r.lease.Held(time.Now())
	lost := r.lease.Err()
	r.mu.Lock()
	defer r.mu.Unlock()
	s := State{
		Why: r.why, Want: r.allowed(r.want.Count), At: r.last.At, Decision: r.last.Decision,
		Held: held, Gen: hold.Gen, Beat: r.beat, Times: r.times, Joules: maps.Clone(r.joules),
	}
	switch {
	case !held && lost != nil:
		s.Why = lost.Error()
	case !held:
		s.Why = "the pool's lease ran out before it was renewed"
	case r.last.Gen != hold.Gen:
		// Another process may have acted, and wanted, until a moment ago.
		s.Why = cmp.Or(r.why, "it has just won the pool's lease, and looks at the hosts first")
	case r.want.Rev == 0:
		s.Why = cmp.Or(r.why, "no count is wanted: there is no record of one")
	default:
		s.Ready = true
	}
	return s
}

// allowed is a count within the pool's max.
func (r *Runner) allowed(n int) int { return min(n, r.cfg.Limits.Max) }

// Plan is what the loop would decide now if n hosts were wanted, from what it
// saw last. Nothing is read, written or done. The error is the law that the
// decision would break, in which case the loop would do nothing of it.
func (r *Runner) Plan(n int) (pool.Decision, error) {
	r.mu.Lock()
	snapshot := r.last.Snapshot
	r.mu.Unlock()
	now, n := time.Now(), r.allowed(n)
	d := pool.Reconcile(now, n, snapshot, r.cfg.Limits)
	return d, pool.Check(now, n, snapshot, d.Actions, r.cfg.Limits)
}

// Run ticks until ctx ends. The lease is given back last: the moment that it
// is free another process acts.
func (r *Runner) Run(ctx context.Context) {
	defer close(r.done)
	held, release := context.WithCancel(context.WithoutCancel(ctx))
	var lease sync.WaitGroup
	lease.Go(func() { pluginhost.Keep(held, r.log, "lease", r.lease.Run) })
	defer lease.Wait()
	defer release()
	defer func() {
		if err := r.cfg.Site.Close(); err != nil {
			r.log.Warn("power drivers did not close in order", "error", err)
		}
	}()

	for ctx.Err() == nil {
		next := r.tick(ctx)
		r.mu.Lock()
		r.beat = time.Now()
		r.mu.Unlock()
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
func (r *Runner) tick(ctx context.Context) (next time.Duration) {
	defer func() {
		// A bug must not end the plugin, which nothing would start again.
		if p := recover(); p != nil {
			r.trouble(ctx, newBug("running the control loop", p))
			next = r.cfg.Poll
		}
	}()
	report, err := r.loop.Tick(ctx)
	switch {
	case ctx.Err() != nil:
		return 0
	case errors.Is(err, control.ErrNotHolder):
		r.idle(ctx)
		return min(r.cfg.Poll, time.Second)
	case err != nil:
		r.trouble(ctx, err)
		return r.cfg.Poll
	}
	wait := ""
	if !report.WantKnown {
		if wait, err = r.adopt(ctx, report); err != nil {
			r.trouble(ctx, err)
			return r.cfg.Poll
		}
	}
	r.decided(report, wait)
	r.learn(ctx, report)
	r.cfg.Told(report, nil)
	r.tell.report(report, r.publish(ctx))
	if !report.WantKnown || slices.ContainsFunc(report.Outcomes, func(o control.Outcome) bool { return o.Done }) {
		return r.cfg.Poll / 5
	}
	return r.cfg.Poll
}

// idle keeps a process that is not the holder informed of what is wanted.
func (r *Runner) idle(ctx context.Context) {
	r.tell.idle()
	r.setWhy("")
	_, _, _ = store{r}.Want(ctx) // the next holder reads it again before it decides
}

// trouble is a tick that decided nothing.
func (r *Runner) trouble(ctx context.Context, err error) {
	r.setWhy(err.Error())
	r.cfg.Told(control.Report{}, err)
	r.tell.trouble(err, r.publish(ctx))
}

func (r *Runner) publish(ctx context.Context) func(consul.Status) error {
	return func(s consul.Status) error { return r.records.PutStatus(ctx, r.lease, s) }
}

func (r *Runner) setWhy(why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.why = why
}

// decided keeps the report of a tick, and why it did not decide all.
func (r *Runner) decided(report control.Report, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.meter(report)
	r.last, r.why, r.times = report, why, report.Snapshot.Times
}

// longestGap is the longest time between two ticks that energy is counted for:
// nobody knows what was on while nobody looked.
const longestGap = 10 * time.Minute

// meter adds the energy since the last tick, by what was on then.
func (r *Runner) meter(report control.Report) {
	gap := report.At.Sub(r.last.At)
	if r.last.Gen != report.Gen || gap <= 0 || gap > longestGap {
		return
	}
	for _, h := range r.last.Decision.Hosts {
		if h.Watts > 0 {
			if r.joules == nil {
				r.joules = make(map[string]float64)
			}
			r.joules[h.Class] += h.Watts * gap.Seconds()
		}
	}
}

// learn adds to the times what has ended since the last tick. A duration that
// cannot be recorded is lost: another host will tell as much.
func (r *Runner) learn(ctx context.Context, report control.Report) {
	if len(report.Learned) == 0 {
		return
	}
	times := maps.Clone(report.Snapshot.Times)
	if times == nil {
		times = make(map[string]pool.Times)
	}
	for _, s := range report.Learned {
		times[s.Class] = times[s.Class].Add(s)
		r.log.Info("took", "host", s.Host, "stage", s.Stage.String(), "seconds", math.Round(s.Took.Seconds()*10)/10)
	}
	if err := r.records.PutTimes(ctx, r.lease, times); err != nil {
		r.log.Warn("cannot record how long hosts took", "error", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.times = times
}

// settleTime is how long the first wanted count waits for a host to be known. One
// that is broken is not known for good.
const settleTime = time.Minute

// look is when hosts were looked at, and under which hold of the lease.
type look struct {
	gen uint64
	at  time.Time
}

// unsettled is what the first wanted count is to wait for, if anything: a host
// that may be on and is not known, as after a heartbeat that Nomad missed. To adopt
// what is there without it would be to power it off, as surplus, when it is back.
func (r *Runner) unsettled(report control.Report) string {
	if r.first.gen != report.Gen {
		r.first = look{report.Gen, report.At}
	}
	if report.At.Sub(r.first.at) >= settleTime {
		return ""
	}
	for _, h := range report.Decision.Hosts {
		if h.Phase == pool.Unknown && h.Power != pool.PowerOff {
			return fmt.Sprintf("no count is wanted, and none is adopted before host %s is known, or for a minute: %s", h.ID, h.Why)
		}
	}
	return ""
}

// adopt writes a first wanted count: what is there, or it says what it waits for.
// It happens once in a pool's life, or after its record was lost. Whatever somebody
// else writes meanwhile stands.
func (r *Runner) adopt(ctx context.Context, report control.Report) (wait string, err error) {
	if wait := r.unsettled(report); wait != "" {
		return wait, nil
	}
	have := report.Decision.Have
	reason := fmt.Sprintf("no count was wanted: adopted the %d in service or on their way", have)
	err = r.write(ctx, consul.Want{}, have, reason)
	if errors.Is(err, consul.ErrStale) {
		return "", nil
	}
	return "", err
}

// ErrUnchanged is what SetWant answers for the count that is wanted already.
var ErrUnchanged = errors.New("already wanted")

// SetWant writes the wanted count, last writer wins, and asks for a tick. A
// count above the pool's max is kept as it is and followed as far as max.
func (r *Runner) SetWant(ctx context.Context, n int, reason string) error {
	const tries = 4
	for try := 1; ; try++ {
		r.mu.Lock()
		now := r.want
		r.mu.Unlock()
		if now.Rev != 0 && now.Count == n {
			return ErrUnchanged
		}
		err := r.write(ctx, now, n, reason)
		if !errors.Is(err, consul.ErrStale) || try == tries {
			return err
		}
		// Somebody wrote or deleted it meanwhile: an operator, or an
		// autoscaler that holds the lease no longer. Write over what is there.
		if _, _, err := (store{r}).Want(ctx); err != nil {
			return err
		}
	}
}

// write replaces the wanted count that is there now, or makes the first one.
func (r *Runner) write(ctx context.Context, now consul.Want, n int, reason string) error {
	w, err := r.records.SetWant(ctx, consul.Want{
		Count: n, Reason: reason, By: r.cfg.Lease.Holder, At: time.Now().UTC(), Rev: now.Rev,
	})
	if err != nil {
		return err
	}
	r.setWant(w)
	r.log.Info("want", "count", n, "allowed", r.allowed(n), "reason", w.Reason)
	select {
	case r.kick <- struct{}{}:
	default:
	}
	return nil
}

// setWant remembers a wanted count, unless a newer one was written while it
// was read.
func (r *Runner) setWant(w consul.Want) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.Rev >= r.want.Rev {
		r.want = w
	}
}

// forgetWant is for a record that is not there any more.
func (r *Runner) forgetWant() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.want = consul.Want{}
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
	return s.r.allowed(w.Count), true, nil
}

func (s store) Intents(ctx context.Context) (map[string]pool.Intent, error) {
	return s.r.records.Intents(ctx)
}

func (s store) Words(ctx context.Context) (map[string]pool.Said, error) {
	return s.r.records.Words(ctx)
}

// Times that cannot be read are learned anew: they are estimates, and no reason
// to stop.
func (s store) Times(ctx context.Context) (map[string]pool.Times, error) {
	times, err := s.r.records.Times(ctx)
	corrupt := errors.Is(err, consul.ErrCorrupt)
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	if corrupt && !s.r.blind {
		s.r.log.Warn("what was learned of how long hosts take is lost, and learned anew", "error", err)
	}
	s.r.blind = corrupt
	if corrupt {
		return nil, nil
	}
	return times, err
}

func (s store) Record(ctx context.Context, host string, in pool.Intent) (pool.Intent, error) {
	if in.SettledAt.IsZero() {
		return s.r.records.Intend(ctx, s.r.lease, host, in)
	}
	return s.r.records.Settle(ctx, s.r.lease, host, in)
}

// Poll is the time between two ticks while nothing is under way.
func (r *Runner) Poll() time.Duration { return r.cfg.Poll }
