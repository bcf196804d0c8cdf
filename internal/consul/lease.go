package consul

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
)

// LeaseConfig says how a lease is held.
type LeaseConfig struct {
	// Holder names this process to people: host name and process ID, or
	// allocation ID. It need not be unique.
	Holder string
	// TTL is how long the lease outlives its last renewal. Default 15 s;
	// raised to Consul's floor of 10 s and lowered to 60 s, the longest lock
	// delay that Consul grants.
	TTL time.Duration
	// LockDelay is how long Consul keeps the lock free after it took it away
	// from a holder that did not give it back. Default TTL, and raised to it:
	// a holder whose session was destroyed learns of it after up to TTL/3,
	// and must have stopped before the next one starts.
	LockDelay time.Duration
	// Logger tells of the lease being won, lost and out of reach, once each.
	// Default none.
	Logger hclog.Logger
}

// Bounds and default of LeaseConfig.TTL.
const (
	MinTTL     = 10 * time.Second
	MaxTTL     = 60 * time.Second
	DefaultTTL = 15 * time.Second
)

// Lease is one process's claim to be the actor of a pool. [Lease.Run] claims,
// holds, loses and reclaims it, as long as its context lives.
//
// It rests on a Consul session without health checks, so that only the TTL or
// an operator ends it, and on a lock of the key pools/<name>/lease. Three
// things keep two holders apart:
//
//   - The holder's own clock: the lease counts as held until the sending of
//     the last renewal that succeeded, plus TTL, less a margin. Consul counts
//     the TTL from a later moment (and in practice waits twice as long).
//   - The lock delay, for sessions that ended early: destroyed by an operator,
//     or because the Consul agent that made them left its cluster.
//   - The fence of [Pool.Intend], which asks the server and no clock. It holds
//     even where the other two fail: a process that was stopped for a minute
//     between looking at its clock and writing, or a Consul leader that
//     changed and forgot a lock delay.
type Lease struct {
	p   *Pool
	cfg LeaseConfig
	log hclog.Logger

	mu      sync.Mutex
	session string // session that won the lock; empty while the lease is not held
	hold    Hold
	err     error // why it is not held
}

// Hold is a lease while it is held.
type Hold struct {
	// Gen is the generation: it rises with every new holder, and is never 0.
	//
	// It is the ModifyIndex that the lock's key got when the lock was won,
	// which is the index of that write in Consul's Raft log. The log only
	// grows, whoever writes. (The key's LockIndex would not do: it starts
	// again at 1 when somebody deletes the key.)
	Gen uint64
	// Until is when the holder must have stopped, unless the lease is renewed.
	Until time.Time
}

// NewLease makes a lease of the pool. It does no I/O.
func (p *Pool) NewLease(cfg LeaseConfig) *Lease {
	cfg.TTL = min(max(cmp.Or(cfg.TTL, DefaultTTL), MinTTL), MaxTTL)
	cfg.LockDelay = min(max(cfg.LockDelay, cfg.TTL), MaxTTL)
	return newLease(p, cfg)
}

func newLease(p *Pool, cfg LeaseConfig) *Lease {
	log := cfg.Logger
	if log == nil {
		log = hclog.NewNullLogger()
	}
	// A renewal that hangs must leave time for another.
	c := *p.c
	c.timeout = min(c.timeout, cfg.TTL/3)
	p = &Pool{c: &c, name: p.name}
	return &Lease{p: p, cfg: cfg, log: log.With("pool", p.name), err: errors.New("not claimed yet")}
}

// Granted is a lease that is held as given, without Consul: for a store in
// memory. It must not be Run.
func Granted(h Hold) *Lease {
	return &Lease{log: hclog.NewNullLogger(), hold: h}
}

// Held returns the hold, and whether it stands at now. Both the monotonic and
// the wall clock must say so: the first stands still while a virtual machine
// is suspended, the second can be set back.
func (l *Lease) Held(now time.Time) (Hold, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.hold
	return h, h.Gen != 0 && now.Before(h.Until) && now.Round(0).Before(h.Until.Round(0))
}

// Err is why the lease is not held, in words for an operator, or nil. While
// Consul is out of reach, it tells so before the hold has run out.
func (l *Lease) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// current is the session and the generation to fence a write with. Both are
// zero while the lease is not held.
func (l *Lease) current() (string, uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.session, l.hold.Gen
}

// margin is what the holder stops early by, for clocks that run at different
// rates and for what it has in flight.
func (l *Lease) margin() time.Duration { return l.cfg.TTL / 5 }

// Run claims the lease and keeps it until ctx ends, and then gives it back, so
// that the next holder need not wait. End ctx only when everything that acts
// under the lease has stopped. Run returns no errors: see Held and Err.
func (l *Lease) Run(ctx context.Context) {
	for ctx.Err() == nil {
		l.term(ctx)
	}
}

// term is the life of one session: made, waiting for the lock, holding it,
// ended. A session wins the lock at most once, so that it stands for one
// generation.
func (l *Lease) term(ctx context.Context) {
	sent := time.Now()
	session, err := l.open(ctx)
	if err != nil {
		l.trouble(ctx, err)
		l.pause(ctx)
		return
	}
	defer l.close(ctx, session)

	gen, sent, err := l.acquire(ctx, session, sent)
	if err == nil {
		l.won(session, Hold{Gen: gen, Until: sent.Add(l.cfg.TTL - l.margin())})
		err = l.keep(ctx, session)
	}
	l.lost(ctx, err)
}

// open makes a session.
func (l *Lease) open(ctx context.Context) (string, error) {
	c := l.p.c
	reqCtx, cancel := c.bounded(ctx)
	defer cancel()
	session, _, err := c.api.Session().CreateNoChecks(&api.SessionEntry{
		Name:      "gpupool " + l.p.name + " " + l.cfg.Holder,
		TTL:       l.cfg.TTL.String(),
		LockDelay: l.cfg.LockDelay,
		Behavior:  api.SessionBehaviorRelease,
	}, (&api.WriteOptions{}).WithContext(reqCtx))
	if err != nil {
		return "", c.failed(ctx, "make", "a session for pool "+l.p.name, err)
	}
	return session, nil
}

// errSessionGone: Consul does not know the session any more.
var errSessionGone = errors.New("the session expired or was destroyed")

// renew renews the session and returns when the renewal was sent.
func (l *Lease) renew(ctx context.Context, session string) (time.Time, error) {
	reqCtx, cancel := l.p.c.bounded(ctx)
	defer cancel()
	sent := time.Now()
	entry, _, err := l.p.c.api.Session().Renew(session, (&api.WriteOptions{}).WithContext(reqCtx))
	if err != nil {
		return sent, l.p.c.failed(ctx, "renew", "the session of pool "+l.p.name, err)
	}
	if entry == nil {
		return sent, fmt.Errorf("renew the session of pool %s in Consul at %s: %w", l.p.name, l.p.c.addr, errSessionGone)
	}
	return sent, nil
}

// acquire waits for the lock, renewing the session meanwhile. It returns the
// generation won and when the session was last renewed, or why the session is
// of no more use.
func (l *Lease) acquire(ctx context.Context, session string, renewed time.Time) (uint64, time.Time, error) {
	for {
		gen, refused, err := l.lock(ctx, session)
		switch {
		case err == nil && refused == "":
			return gen, renewed, nil
		case err == nil:
			l.await(ctx, refused)
		default:
			l.trouble(ctx, err)
			l.pause(ctx)
		}
		if ctx.Err() != nil {
			return 0, renewed, ctx.Err()
		}
		sent, err := l.renew(ctx, session)
		switch {
		case errors.Is(err, errSessionGone):
			return 0, renewed, err
		case err == nil:
			renewed = sent
		}
	}
}

// lock tries once to win the lock. It returns the generation, or why Consul
// refused.
func (l *Lease) lock(ctx context.Context, session string) (gen uint64, refused string, err error) {
	key, err := l.p.key("lease")
	if err != nil {
		return 0, "", err
	}
	value, err := json.Marshal(claim{Holder: clip(l.cfg.Holder, maxText), At: time.Now().UTC()})
	if err != nil {
		return 0, "", err
	}
	pairs, no, err := l.p.c.txn(ctx, key, &api.KVTxnOp{Verb: api.KVLock, Key: key, Value: value, Session: session})
	if err != nil || no != nil {
		if no != nil {
			refused = no.what
		}
		return 0, refused, err
	}
	return pairs[0].ModifyIndex, "", nil
}

// claim is the value of the lock's key. It is for people.
type claim struct {
	Holder string    `json:"holder"`
	At     time.Time `json:"at"`
}

// await waits until the lock's key is worth another try, or a renewal is due.
func (l *Lease) await(ctx context.Context, refused string) {
	pair, index := l.holder(ctx, 0)
	if pair == nil || pair.Session == "" {
		// Free but refused: the lock delay, which ends without a change of
		// the key.
		l.waiting(fmt.Errorf("the pool's lease is free, and held back for up to %s: %s", l.cfg.LockDelay, refused))
		l.pause(ctx)
		return
	}
	var c claim
	_ = json.Unmarshal(pair.Value, &c) // only for the message
	l.waiting(fmt.Errorf("the pool's lease is held by %q since %s", clip(c.Holder, maxText), c.At.Format(time.RFC3339)))
	l.holder(ctx, index)
}

// holder reads the lock's key: at once if index is 0, else when it changes or
// a renewal is due. The pair is nil if there is none, or no answer.
func (l *Lease) holder(ctx context.Context, index uint64) (*api.KVPair, uint64) {
	key, err := l.p.key("lease")
	if err != nil {
		return nil, 0
	}
	// Consul adds up to a sixteenth to the wait, to spread its clients.
	wait := l.cfg.TTL / 3
	reqCtx, cancel := context.WithTimeout(ctx, wait+wait/8)
	defer cancel()
	q := consistent(reqCtx)
	if index > 0 {
		q.WaitIndex, q.WaitTime = index, wait
	}
	pair, meta, err := l.p.c.api.KV().Get(key, q)
	if err != nil {
		l.pause(ctx)
		return nil, 0
	}
	return pair, meta.LastIndex
}

// keep renews the session, and sees that the lock is still its own, three
// times in each TTL. It returns why the lease is lost. An answer that does not
// come is not a loss: the hold runs out by itself, and stands again if Consul
// comes back before the session has ended.
func (l *Lease) keep(ctx context.Context, session string) error {
	wait := l.cfg.TTL / 3
	for {
		if !sleep(ctx, wait) {
			return ctx.Err()
		}
		wait = l.cfg.TTL / 3
		sent, err := l.renew(ctx, session)
		if err == nil {
			err = l.own(ctx, session)
		}
		switch {
		case errors.Is(err, errSessionGone), errors.Is(err, errLockGone):
			return err
		case err != nil:
			l.trouble(ctx, err)
			wait = l.cfg.TTL / 10
		default:
			l.renewed(sent.Add(l.cfg.TTL - l.margin()))
		}
	}
}

// errLockGone: the session lives, but the lock's key was deleted or taken.
var errLockGone = errors.New("somebody deleted or released the lock")

// own makes sure that the lock's key is the session's.
func (l *Lease) own(ctx context.Context, session string) error {
	key, err := l.p.key("lease")
	if err != nil {
		return err
	}
	pair, err := l.p.c.get(ctx, key)
	switch {
	case errors.Is(err, ErrNotFound), err == nil && pair.Session != session:
		return fmt.Errorf("read %s in Consul at %s: %w", key, l.p.c.addr, errLockGone)
	}
	return err
}

// close ends the hold, and then the session. The lock is given back first,
// because a session that ends with the lock leaves a lock delay behind. It is
// best effort with little time: a process that is told to stop has two
// seconds, and the TTL does the same.
func (l *Lease) close(ctx context.Context, session string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if key, err := l.p.key("lease"); err == nil {
		_, _, _ = l.p.c.txn(ctx, key, &api.KVTxnOp{Verb: api.KVUnlock, Key: key, Session: session})
	}
	_, _ = l.p.c.api.Session().Destroy(session, (&api.WriteOptions{}).WithContext(ctx))
}

// pause waits between two attempts, at odds with other processes.
func (l *Lease) pause(ctx context.Context) {
	base := l.cfg.TTL / 10
	sleep(ctx, base+rand.N(base))
}

// sleep waits, and returns false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// won, renewed, lost, waiting and trouble are the changes of the lease's
// state. Each is logged when it begins.

func (l *Lease) won(session string, h Hold) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.session, l.hold, l.err = session, h, nil
	l.log.Info("lease won", "generation", h.Gen)
}

func (l *Lease) renewed(until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		l.log.Info("lease renewed after trouble", "generation", l.hold.Gen)
	}
	l.hold.Until, l.err = until, nil
}

func (l *Lease) lost(ctx context.Context, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := l.hold.Gen
	if ctx.Err() != nil {
		err = errors.New("given back: this process is stopping")
	}
	l.session, l.hold, l.err = "", Hold{}, err
	switch {
	case held != 0 && ctx.Err() != nil:
		l.log.Info("lease given back", "generation", held)
	case held != 0:
		l.log.Warn("lease lost", "generation", held, "error", err)
	}
}

func (l *Lease) waiting(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil || l.err.Error() != err.Error() {
		l.log.Info("waiting for the lease", "why", err)
	}
	l.err = err
}

func (l *Lease) trouble(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var said *troubled
	if !errors.As(l.err, &said) {
		l.log.Warn("lease cannot be claimed or renewed, trying again", "error", err)
	}
	l.err = &troubled{err}
}

// troubled marks an error as one that goes away by itself, so that an outage
// is logged once.
type troubled struct{ error }

func (t *troubled) Unwrap() error { return t.error }

// Holder reads who holds the pool's lease now: the name that it gave itself,
// empty while nobody does.
func (p *Pool) Holder(ctx context.Context) (string, error) {
	key, err := p.key("lease")
	if err != nil {
		return "", err
	}
	pair, err := p.c.get(ctx, key)
	switch {
	case errors.Is(err, ErrNotFound):
		return "", nil
	case err != nil:
		return "", err
	case pair.Session == "":
		return "", nil
	}
	var c claim
	_ = json.Unmarshal(pair.Value, &c) // it is for people: the lock is the session
	return cmp.Or(clip(c.Holder, maxText), "a process without a name"), nil
}
