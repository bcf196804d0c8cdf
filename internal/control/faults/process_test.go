package faults

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"time"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/control"
	"github.com/gpupool/gpupool/internal/pool"
)

// step is a place in a tick where a process can be killed, or stand still.
type step string

var steps = []step{"before looking", "after looking", "before recording", "after recording", "before the command", "after the command", "after the outcome"}

// trap waits for a process at a step.
type trap struct {
	at    step
	stall time.Duration // how long it stands still; 0: it is killed
	away  time.Duration // how long until it is started again
}

// proc is one life of a process that runs the loop.
type proc struct {
	w     *world
	n     int
	name  string
	trap  *trap
	dead  bool // killed: whatever it does next, it does not
	stop  bool // asked to stop in order
	still time.Time
	// short: in this tick, its lease did not last for an act.
	short bool
	// askedAt is when it last asked for the operators' words.
	askedAt time.Time

	lease *consul.Lease
	gen   uint64
	until time.Time // by its own clock
	ended chan struct{}
}

// begin starts a process in place n.
func (w *world) begin(n, life int) {
	p := &proc{w: w, n: n, name: fmt.Sprintf("process %c%d", 'A'+n, life), ended: make(chan struct{})}
	w.procs[n] = p
	w.say("%s starts", p.name)
	w.after(w.between("first renewal", n, 0, time.Second), p.renew)
	go p.run()
}

// ownHost is the host on which the process runs, if it is one of the pool's.
func (p *proc) ownHost() *machine {
	if s := p.w.setup.self; p.n == 0 && s < len(p.w.hosts) {
		return p.w.hosts[s]
	}
	return nil
}

// reach is passed at each step of a tick, without the lock. It does not return
// to a process that is dead.
func (p *proc) reach(s step) {
	p.w.lock()
	p.mustLive()
	t := p.trap
	if t == nil || t.at != s {
		p.w.unlock()
		return
	}
	p.trap = nil
	if t.stall == 0 {
		p.w.say("%s is killed %s", p.name, s)
		p.dead = true
		n, life := p.n, p.w.life()
		p.w.after(t.away, func() { p.w.begin(n, life) })
		p.mustLive()
	}
	p.w.say("%s stands still for %s, %s", p.name, t.stall, s)
	p.still = p.w.now.Add(t.stall)
	p.w.unlock()
	time.Sleep(t.stall)
	p.w.lock()
	p.mustLive()
	p.w.unlock()
}

// mustLive ends the goroutine of a dead process, and gives the lock back.
func (p *proc) mustLive() {
	if p.dead || p.w.finished {
		p.w.unlock()
		runtime.Goexit()
	}
}

func (w *world) life() int { w.order++; return w.order }

func (p *proc) run() {
	defer close(p.ended)
	loop := control.New(control.Config{
		World: p, Store: p, Lease: p.held, Limits: p.w.setup.limits,
		ActTimeout: actTimeout, Ambiguous: ambiguous,
		NoCapacity: func(err error) bool { return errors.Is(err, errNoCapacity) },
	})
	for {
		p.short = false
		report, err := loop.Tick(context.Background())
		p.w.lock()
		p.mustLive()
		wait := p.w.setup.poll
		switch {
		case errors.Is(err, pool.ErrUnsafe):
			p.w.judge.violated("Reconcile decided what Check forbids: %v", err)
		case errors.Is(err, control.ErrNotHolder):
			wait = time.Second
		case err != nil:
			p.w.say("%s: the tick failed: %v", p.name, err)
		default:
			p.w.judge.ticked(p, report)
			for _, s := range report.Learned {
				p.w.times[s.Class] = p.w.times[s.Class].Add(s)
			}
			for _, o := range report.Outcomes {
				if o.Done {
					wait = time.Second
				} else {
					p.w.say("%s: %v", p.name, o.Err)
				}
			}
		}
		if p.stop {
			p.resign()
			p.w.unlock()
			return
		}
		p.w.unlock()
		time.Sleep(wait)
	}
}

// resign is an end in order: the lease is given back at once.
func (p *proc) resign() {
	w := p.w
	w.say("%s stops and gives the lease back", p.name)
	p.dead = true
	if w.holder == p {
		w.mem.Fence()
		w.holder, w.locked = nil, w.now
	}
	w.begin(p.n, w.life())
}

// The lease. Its server side is the world's, its client side the process's.

func (p *proc) renew() {
	w := p.w
	if p.dead || w.procs[p.n] != p {
		return
	}
	w.after(leaseTTL/5, p.renew)
	if w.isAway("consul") || w.now.Before(p.still) {
		return
	}
	switch {
	case w.holder == p:
		w.expiry, p.until = w.now.Add(leaseTTL), w.now.Add(leaseTTL*12/15)
		w.at(w.expiry, w.expire)
	case w.holder == nil && !w.now.Before(w.locked):
		p.lease = w.mem.Lease(w.now.Add(time.Hour))
		hold, _ := p.lease.Held(w.now)
		p.gen, w.holder = hold.Gen, p
		w.expiry, p.until = w.now.Add(leaseTTL), w.now.Add(leaseTTL*12/15)
		w.at(w.expiry, w.expire)
		w.say("%s wins the lease, generation %d", p.name, p.gen)
	default:
		p.until = time.Time{} // it is told that it holds nothing
	}
}

func (w *world) expire() {
	if w.holder != nil && !w.now.Before(w.expiry) {
		w.takeLease("it was not renewed")
	}
}

func (w *world) takeLease(why string) {
	if w.holder == nil {
		return
	}
	w.say("%s loses the lease: %s", w.holder.name, why)
	w.mem.Fence()
	w.holder, w.locked = nil, w.now.Add(lockDelay)
}

func (p *proc) held(now time.Time) (uint64, time.Time, bool) {
	p.w.lock()
	p.mustLive()
	defer p.w.unlock()
	p.short = p.short || p.until.Sub(now) < actTimeout
	return p.gen, p.until, now.Before(p.until)
}

// A process as the loop's World and Store.

func (p *proc) Observe(ctx context.Context) (pool.Snapshot, error) {
	p.reach("before looking")
	s, err := p.w.observe(ctx, p)
	p.reach("after looking")
	return s, err
}

func (p *proc) Act(ctx context.Context, v pool.View, do pool.Verb) error {
	p.reach("before the command")
	if err := ctx.Err(); err != nil {
		return err // as every driver does before it sends anything
	}
	err := p.w.act(ctx, p, v, do)
	p.reach("after the command")
	return err
}

// ask takes what a question to Consul takes.
func (p *proc) ask(purpose string) error {
	p.w.lock()
	p.mustLive()
	wait, away := p.w.between(purpose, p.n, time.Millisecond, 20*time.Millisecond), p.w.isAway("consul")
	p.w.unlock()
	if away {
		time.Sleep(time.Second)
		return errAway
	}
	time.Sleep(wait)
	return nil
}

func (p *proc) Want(ctx context.Context) (int, bool, error) {
	if err := p.ask("want"); err != nil {
		return 0, false, err
	}
	want, err := p.w.mem.Want(ctx)
	if errors.Is(err, consul.ErrNotFound) {
		return 0, false, nil
	}
	return want.Count, err == nil, err
}

func (p *proc) Intents(ctx context.Context) (map[string]pool.Intent, error) {
	if err := p.ask("intents"); err != nil {
		return nil, err
	}
	return p.w.mem.Intents(ctx)
}

func (p *proc) Words(context.Context) (map[string]pool.Said, error) {
	if err := p.ask("words"); err != nil {
		return nil, err
	}
	p.w.lock()
	defer p.w.unlock()
	p.askedAt = p.w.now
	return maps.Clone(p.w.words), nil
}

func (p *proc) Times(context.Context) (map[string]pool.Times, error) {
	p.w.lock()
	defer p.w.unlock()
	return maps.Clone(p.w.times), nil
}

func (p *proc) Record(ctx context.Context, host string, in pool.Intent) (pool.Intent, error) {
	open := in.SettledAt.IsZero()
	if open {
		p.reach("before recording")
	}
	if err := p.ask("record" + host); err != nil {
		return pool.Intent{}, err
	}
	p.w.lock()
	p.mustLive()
	var stored pool.Intent
	var err error
	if open {
		stored, err = p.w.mem.Intend(ctx, p.lease, host, in)
	} else {
		stored, err = p.w.mem.Settle(ctx, p.lease, host, in)
	}
	if err == nil {
		if open {
			p.w.judge.recorded(p, p.w.byID[host], stored)
		} else {
			p.w.judge.settled(p.w.byID[host], stored)
		}
		if p.w.isAway("consul answers") {
			err = errLost
		}
	}
	p.w.unlock()
	if open {
		p.reach("after recording")
	} else {
		p.reach("after the outcome")
	}
	return stored, err
}
