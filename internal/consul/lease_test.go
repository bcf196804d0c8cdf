package consul_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/consul/consultest"
	"github.com/gpupool/gpupool/internal/pool"
)

const lockKey = "gpupool/v1/pools/h100/lease"

// short is a lease that is quick to lose. The lock delay of 2 s is longer than
// the TTL less its margin, as NewLease makes sure for real ones.
var short = consul.LeaseConfig{TTL: 2 * time.Second, LockDelay: 2 * time.Second}

func TestLeaseTimesAreBounded(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	p := client(t, agent).Pool("h100")
	l, _ := run(t, p, consul.LeaseConfig{TTL: time.Second, LockDelay: time.Millisecond})
	eventually(t, time.Minute, "the lease is won", func() bool { return held(l) })
	session, _ := l.Fence()
	entry, _, err := agent.Client().Session().Info(session, nil)
	if err != nil {
		t.Fatal(err)
	}
	if entry.TTL != "10s" || entry.LockDelay != 10*time.Second || len(entry.NodeChecks) != 0 {
		t.Errorf("asked for less than Consul's floor, the session has %+v", entry)
	}
}

// The lease goes from hand to hand by each of the ways in which it can be
// lost, while every claimant is watched: never do two hold it at one moment,
// and the generation rises with each holder.
func TestNeverTwoHolders(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	c := client(t, agent)
	claimants := make([]*claimant, 3)
	for i := range claimants {
		claimants[i] = claim(t, c.Pool("h100"))
	}
	w := watch(t, claimants)

	holder := w.holder(t, 10*time.Second)
	holder = w.next(t, "an operator destroys the session", func() {
		session, _ := holder.lease.Fence()
		if _, err := agent.Client().Session().Destroy(session, nil); err != nil {
			t.Fatal(err)
		}
	})
	cut := holder
	holder = w.next(t, "the holder is cut off from Consul, and goes on believing", cut.cut)
	cut.mend()
	w.next(t, "the holder gives the lease back", holder.stop)

	// No lock delay follows the next one, so it may overlap by up to TTL/3;
	// the fence of the writes is what keeps two actors apart here, see
	// TestFenceNeedsNoClock.
	w.allowOverlap()
	w.next(t, "an operator deletes the lock", func() {
		if _, err := agent.Client().KV().Delete(lockKey, nil); err != nil {
			t.Fatal(err)
		}
	})
}

// While Consul stands still, the hold ends by the holder's own clock, and
// nobody else's begins. When Consul goes on, somebody holds it again.
func TestConsulStandsStill(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	c := client(t, agent)
	claimants := []*claimant{claim(t, c.Pool("h100")), claim(t, c.Pool("h100"))}
	w := watch(t, claimants)
	holder := w.holder(t, 10*time.Second)

	agent.Pause()
	eventually(t, time.Minute, "the hold has run out", func() bool { return !held(holder.lease) })
	eventually(t, time.Minute, "the lease says why", func() bool {
		return errors.Is(holder.lease.Err(), consul.ErrUnreachable)
	})
	agent.Resume()
	w.holder(t, 20*time.Second)
}

func TestConsulDownAtStart(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	agent.Stop()
	l, _ := run(t, client(t, agent).Pool("h100"), short)
	eventually(t, time.Minute, "the lease says why it is not held", func() bool {
		return errors.Is(l.Err(), consul.ErrUnreachable)
	})
	if held(l) {
		t.Error("held without Consul")
	}
	agent.Run()
	eventually(t, time.Minute, "the lease is won", func() bool { return held(l) })
	if err := l.Err(); err != nil {
		t.Errorf("held, and says %v", err)
	}
}

// A holder that has not yet learned that its session is gone, and by its own
// clock still holds the lease, is refused by the server.
func TestFenceNeedsNoClock(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(t *testing.T, agent *consultest.Agent, session string){
		"the session is destroyed": func(t *testing.T, agent *consultest.Agent, session string) {
			if _, err := agent.Client().Session().Destroy(session, nil); err != nil {
				t.Fatal(err)
			}
		},
		"the lock is deleted": func(t *testing.T, agent *consultest.Agent, _ string) {
			if _, err := agent.Client().KV().Delete(lockKey, nil); err != nil {
				t.Fatal(err)
			}
		},
		"the lock is another's": func(t *testing.T, agent *consultest.Agent, _ string) {
			if _, err := agent.Client().KV().Delete(lockKey, nil); err != nil {
				t.Fatal(err)
			}
			other, _, err := agent.Client().Session().CreateNoChecks(nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			ok, _, err := agent.Client().KV().Acquire(&api.KVPair{Key: lockKey, Session: other}, nil)
			if err != nil || !ok {
				t.Fatalf("not acquired: %v", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			agent := consultest.Start(t)
			p := client(t, agent).Pool("h100")
			l, _ := run(t, p, consul.LeaseConfig{TTL: time.Minute})
			eventually(t, time.Minute, "the lease is won", func() bool { return held(l) })
			session, gen := l.Fence()
			open, err := p.Intend(t.Context(), l, "gpu1", pool.Intent{Verb: pool.TurnOn, At: at, Gen: gen})
			if err != nil {
				t.Fatal(err)
			}

			take(t, agent, session)
			if !held(l) {
				t.Fatal("the holder knows already: this tests nothing")
			}
			next := open
			next.Verb = pool.HardOff
			if _, err := p.Intend(t.Context(), l, "gpu1", next); !errors.Is(err, consul.ErrFenced) {
				t.Errorf("Intend: got %v, want ErrFenced", err)
			}
			open.SettledAt = at
			if _, err := p.Settle(t.Context(), l, "gpu1", open); !errors.Is(err, consul.ErrFenced) {
				t.Errorf("Settle: got %v, want ErrFenced", err)
			}
			if err := p.PutStatus(t.Context(), l, consul.Status{At: at}); !errors.Is(err, consul.ErrFenced) {
				t.Errorf("PutStatus: got %v, want ErrFenced", err)
			}
			in, err := p.Intents(t.Context())
			if err != nil || in["gpu1"].Verb != pool.TurnOn || !in["gpu1"].SettledAt.IsZero() {
				t.Errorf("after fenced writes: got %+v, %v", in["gpu1"], err)
			}
		})
	}
}

// A process that was suspended wakes with a monotonic clock that says little
// time went by; the wall clock ends the hold.
func TestHeldByBothClocks(t *testing.T) {
	now := time.Now()
	l := consul.Granted(consul.Hold{Gen: 7, Until: now.Add(10 * time.Second)})
	for _, test := range []struct {
		name string
		now  time.Time
		want bool
	}{
		{"at once", now, true},
		{"by both clocks", now.Add(9 * time.Second), true},
		{"past both", now.Add(10 * time.Second), false},
		{"past the wall clock, which is all there is", now.Round(0).Add(11 * time.Second), false},
	} {
		if _, got := l.Held(test.now); got != test.want {
			t.Errorf("%s: held is %t", test.name, got)
		}
	}
}

func TestWaitingNamesTheHolder(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	p := client(t, agent).Pool("h100")
	first, _ := run(t, p, consul.LeaseConfig{Holder: "autoscaler-on-node-7"})
	eventually(t, time.Minute, "the lease is won", func() bool { return held(first) })
	second, _ := run(t, p, consul.LeaseConfig{Holder: "other"})
	eventually(t, time.Minute, "the second says who holds it", func() bool {
		return second.Err() != nil && strings.Contains(second.Err().Error(), "autoscaler-on-node-7")
	})
}

// claimant is a lease that can be cut off from Consul.
type claimant struct {
	lease *consul.Lease
	stop  func()
	cut   func()
	mend  func()
}

func claim(t *testing.T, p *consul.Pool) *claimant {
	t.Helper()
	// A partition is a proxy of its own for each claimant that stops passing
	// bytes on, as a dead network does.
	proxy := newProxy(t, p.Address())
	c, err := consul.New(consul.Config{Address: proxy.addr})
	if err != nil {
		t.Fatal(err)
	}
	l, stop := run(t, c.Pool(p.Name()), short)
	return &claimant{lease: l, stop: stop, cut: proxy.cut, mend: proxy.mend}
}

// watcher looks at all claimants, all the time.
type watcher struct {
	mu      sync.Mutex
	now     *claimant // who holds the lease
	gen     uint64    // the last generation seen
	owner   *claimant // whose generation that was
	overlap bool
	problem string
}

func watch(t *testing.T, claimants []*claimant) *watcher {
	w := new(watcher)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			w.look(claimants)
			time.Sleep(time.Millisecond)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		if w.problem != "" {
			t.Error(w.problem)
		}
	})
	return w
}

func (w *watcher) look(claimants []*claimant) {
	now := time.Now()
	holders := make(map[*claimant]consul.Hold)
	for _, c := range claimants {
		if h, ok := c.lease.Held(now); ok {
			holders[c] = h
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(holders) > 1 && !w.overlap {
		w.problem = "two hold the lease at one moment"
	}
	w.now = nil
	for c, h := range holders {
		if !w.overlap && (h.Gen < w.gen || h.Gen == w.gen && c != w.owner) {
			w.problem = "the generation did not rise with a new holder"
		}
		if h.Gen >= w.gen {
			w.now, w.gen, w.owner = c, h.Gen, c
		}
	}
}

func (w *watcher) allowOverlap() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.overlap = true
}

// holder waits until somebody holds the lease.
func (w *watcher) holder(t *testing.T, timeout time.Duration) *claimant {
	t.Helper()
	var c *claimant
	eventually(t, timeout, "somebody holds the lease", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		c = w.now
		return c != nil
	})
	return c
}

// next does what makes the lease change hands, and waits until it is held in a
// later generation than before.
func (w *watcher) next(t *testing.T, what string, do func()) *claimant {
	t.Helper()
	w.mu.Lock()
	before := w.gen
	w.mu.Unlock()
	do()
	var c *claimant
	eventually(t, time.Minute, what+": the lease changes hands", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		c = w.now
		return c != nil && w.gen > before
	})
	return c
}

func run(t *testing.T, p *consul.Pool, cfg consul.LeaseConfig) (*consul.Lease, func()) {
	t.Helper()
	l := p.NewLease(cfg)
	if cfg.TTL == short.TTL {
		l = consul.NewShortLease(p, cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { l.Run(ctx) })
	stop := func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return l, stop
}

func held(l *consul.Lease) bool {
	_, ok := l.Held(time.Now())
	return ok
}

func eventually(t *testing.T, timeout time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(timeout); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", timeout, what)
		}
	}
}
