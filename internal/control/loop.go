// Package control is the loop that makes a pool follow its wanted count:
// observe, reconcile, check, record the intent, act, record the outcome.
//
// A crash at any point of a tick is repaired by the next tick, on this machine
// or another, because nothing that matters is kept in memory. (What is kept is
// the last look, from which durations are learned.) The loop only
// acts while it holds the pool's lease, and each act is recorded under that
// lease before it is done: an actor that cannot record may not act.
package control

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gpupool/gpupool/internal/pool"
)

// World is the pool as it is: what can be seen of it, and done to it.
type World interface {
	// Observe reads power, Nomad and the agents of all hosts. A host that
	// could not be read is in the result with unknown parts; the error is for
	// the case that nothing can be said at all, such as Nomad being down.
	// Intents, words and times are left empty: they are the store's.
	Observe(ctx context.Context) (pool.Snapshot, error)
	// Act does one thing to one host. It is safe to repeat, and returns soon
	// after ctx ends.
	Act(ctx context.Context, v pool.View, do pool.Verb) error
}

// Store is the pool's memory. Its writes are fenced: they fail when the lease
// is no longer held, or when somebody else wrote first.
type Store interface {
	// Want is the wanted count; known is false when none was ever written.
	Want(ctx context.Context) (n int, known bool, err error)
	// Intents are the last intents, by host ID.
	Intents(ctx context.Context) (map[string]pool.Intent, error)
	// Words are what operators said that stands, by host ID.
	Words(ctx context.Context) (map[string]pool.Said, error)
	// Times are what was learned of how long hosts take, by class.
	Times(ctx context.Context) (map[string]pool.Times, error)
	// Record writes a host's intent, or its outcome, over revision in.Rev and
	// returns it with its new revision.
	Record(ctx context.Context, host string, in pool.Intent) (pool.Intent, error)
}

// ErrNotHolder means that another process holds the pool's lease, or nobody.
// It is a state rather than a failure: the loop keeps still.
var ErrNotHolder = errors.New("the pool's lease is not held")

// Config is what a loop works with.
type Config struct {
	World World
	Store Store
	// Lease is the generation of the lease and until when it is held; ok is
	// false when it is not.
	Lease func(now time.Time) (gen uint64, until time.Time, ok bool)
	// Limits are the pool's rules.
	Limits pool.Limits
	// ActTimeout bounds one act, recording included. An act is not begun with
	// less than this left of the lease. Default 10 s.
	ActTimeout time.Duration
	// Ambiguous reports whether an act that failed so may have happened, or
	// may still. The end of its context always counts as ambiguous.
	Ambiguous func(error) bool
	// NoCapacity reports whether a power-on failed because the provider has no
	// host of this kind to give. By default none does.
	NoCapacity func(error) bool
}

// Loop runs ticks, one at a time. Between them it keeps what it saw, to learn
// from how long things take; a new loop, which has not seen anything, acts no
// differently.
type Loop struct {
	cfg  Config
	last pool.Snapshot
	gen  uint64 // of the lease under which it was seen
}

// New makes a loop.
func New(cfg Config) *Loop {
	if cfg.ActTimeout == 0 {
		cfg.ActTimeout = 10 * time.Second
	}
	if cfg.Ambiguous == nil {
		cfg.Ambiguous = func(error) bool { return true }
	}
	if cfg.NoCapacity == nil {
		cfg.NoCapacity = func(error) bool { return false }
	}
	return &Loop{cfg: cfg}
}

// Report tells what one tick saw, decided and did.
type Report struct {
	At        time.Time // when it was decided
	Gen       uint64    // generation of the lease
	Want      int       // what the store says is wanted
	WantKnown bool      // false: nothing was ever wanted; nothing was done
	Snapshot  pool.Snapshot
	Decision  pool.Decision
	Outcomes  []Outcome // one for each action, in order
	// Learned are the durations that ended since the last tick: what the
	// store's times are to be added to.
	Learned []pool.Sample
}

// Outcome is how one action ended.
type Outcome struct {
	pool.Action
	Done bool  // it was carried out; otherwise Err says why not, or how it failed
	Err  error // nil if Done
}

// Tick is the whole loop, once. It returns ErrNotHolder when the lease is not
// held, pool.ErrUnsafe when the decision would break a law, in which case
// nothing of it is done, and otherwise what kept it from deciding. What single
// actions met is in the report.
func (l *Loop) Tick(ctx context.Context) (Report, error) {
	gen, _, held := l.cfg.Lease(time.Now())
	if !held {
		return Report{}, ErrNotHolder
	}
	snapshot, err := l.see(ctx)
	if err != nil {
		return Report{}, err
	}
	want, known, err := l.cfg.Store.Want(ctx)
	if err != nil {
		return Report{}, fmt.Errorf("read the wanted count: %w", err)
	}
	// The reading took a while: decide with the time that it is now.
	r := Report{At: time.Now(), Gen: gen, Want: want, WantKnown: known, Snapshot: snapshot, Learned: l.learn(gen, snapshot)}
	r.Decision = pool.Reconcile(r.At, want, snapshot, l.cfg.Limits)
	if !known {
		r.Decision.Actions = nil
		return r, nil
	}
	if err := pool.Check(r.At, want, snapshot, r.Decision.Actions, l.cfg.Limits); err != nil {
		return r, fmt.Errorf("nothing is done: %w", err)
	}
	r.Outcomes = l.do(ctx, gen, snapshot, r.Decision)
	return r, nil
}

// learn finds what ended since the last look, unless another process held the
// lease in between, which has learned it then.
func (l *Loop) learn(gen uint64, now pool.Snapshot) []pool.Sample {
	before, same := l.last, l.gen == gen
	l.last, l.gen = now, gen
	if !same {
		return nil
	}
	return pool.Learn(before, now, l.cfg.Limits)
}

// see joins what is seen with what is remembered. The memory is read first, so
// that no sight is older than the intent it is held against.
func (l *Loop) see(ctx context.Context) (pool.Snapshot, error) {
	intents, err := l.cfg.Store.Intents(ctx)
	if err != nil {
		return pool.Snapshot{}, fmt.Errorf("read the intents: %w", err)
	}
	words, err := l.cfg.Store.Words(ctx)
	if err != nil {
		return pool.Snapshot{}, fmt.Errorf("read the operators' words: %w", err)
	}
	times, err := l.cfg.Store.Times(ctx)
	if err != nil {
		return pool.Snapshot{}, fmt.Errorf("read the learned times: %w", err)
	}
	s, err := l.cfg.World.Observe(ctx)
	if err != nil {
		return pool.Snapshot{}, fmt.Errorf("observe the hosts: %w", err)
	}
	s.Times = times
	for i := range s.Hosts {
		id := s.Hosts[i].Host.ID
		s.Hosts[i].Intent, s.Hosts[i].Said = intents[id], words[id]
	}
	return s, nil
}

// do carries the actions out, side by side: they concern different hosts, and
// a dead BMC must not delay the others.
func (l *Loop) do(ctx context.Context, gen uint64, s pool.Snapshot, d pool.Decision) []Outcome {
	views := make(map[string]pool.View, len(s.Hosts))
	for _, v := range s.Hosts {
		views[v.Host.ID] = v
	}
	outcomes := make([]Outcome, len(d.Actions))
	var all sync.WaitGroup
	for _, host := range d.Joined {
		all.Go(func() { l.witness(ctx, gen, views[host], func(in *pool.Intent, at time.Time) { in.JoinedAt = at }) })
	}
	for _, host := range d.Stopped {
		all.Go(func() { l.witness(ctx, gen, views[host], func(in *pool.Intent, at time.Time) { in.StoppedAt = at }) })
	}
	for i, a := range d.Actions {
		all.Go(func() {
			err := l.one(ctx, gen, views[a.Host], a)
			outcomes[i] = Outcome{Action: a, Done: err == nil, Err: err}
		})
	}
	all.Wait()
	return outcomes
}

// one records, acts, and records how it went. The order is the safety of it:
// whoever reads the record after a crash at any point here knows at least as
// much as was done.
func (l *Loop) one(ctx context.Context, gen uint64, v pool.View, a pool.Action) error {
	now := time.Now()
	if !l.holds(gen, now) {
		return fmt.Errorf("%s %s: %w for long enough", a.Do, a.Host, ErrNotHolder)
	}
	// ActTimeout from now is before the lease ends, as was just made sure.
	ctx, cancel := context.WithTimeout(ctx, l.cfg.ActTimeout)
	defer cancel()

	intent, err := l.cfg.Store.Record(ctx, a.Host, v.Intend(a, now, gen))
	if err != nil {
		return fmt.Errorf("%s %s was not begun, its intent cannot be recorded: %w", a.Do, a.Host, err)
	}
	actErr := l.act(ctx, v, a.Do)
	intent.SettledAt = time.Now()
	if actErr != nil {
		intent.Err = actErr.Error()
		intent.Ambiguous = ctx.Err() != nil || l.cfg.Ambiguous(actErr)
		if a.Do == pool.TurnOn && l.cfg.NoCapacity(actErr) {
			intent = intent.Refused(v.Ledger)
		}
		actErr = fmt.Errorf("%s %s: %w", a.Do, a.Host, actErr)
	}
	// The outcome must be recorded even if the act used all its time. If it
	// cannot be, the intent stays open, which is read as ambiguous.
	last, cancelLast := context.WithTimeout(context.WithoutCancel(ctx), l.cfg.ActTimeout)
	defer cancelLast()
	if _, err := l.cfg.Store.Record(last, a.Host, intent); err != nil {
		return errors.Join(actErr, fmt.Errorf("record the outcome of %s %s: %w", a.Do, a.Host, err))
	}
	return actErr
}

// holds reports whether the lease is held in generation gen for as long as an
// act may take.
func (l *Loop) holds(gen uint64, now time.Time) bool {
	g, until, held := l.cfg.Lease(now)
	return held && g == gen && until.Sub(now) >= l.cfg.ActTimeout
}

// witness puts on record what was seen of a host, which is also how its last
// act went. Nothing hangs on it now: if it cannot be written, the next look
// finds the same.
func (l *Loop) witness(ctx context.Context, gen uint64, v pool.View, note func(in *pool.Intent, at time.Time)) {
	now := time.Now()
	if !l.holds(gen, now) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, l.cfg.ActTimeout)
	defer cancel()
	intent := v.Intent
	note(&intent, now)
	if intent.SettledAt.IsZero() {
		intent.SettledAt = now
	}
	_, _ = l.cfg.Store.Record(ctx, v.Host.ID, intent)
}

// act keeps a panicking driver from taking the loop with it.
func (l *Loop) act(ctx context.Context, v pool.View, do pool.Verb) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return l.cfg.World.Act(ctx, v, do)
}
