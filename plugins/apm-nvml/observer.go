package main

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/nomad"
	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/signal"
)

// nomadReader is what is read of Nomad; *nomad.Client is one.
type nomadReader interface {
	Demand(ctx context.Context, spec nomad.PoolSpec) (nomad.Demand, error)
	Groups(ctx context.Context, namespace, job string) (map[string]nomad.GroupScale, error)
}

// agentFinder finds the agents; *consul.Client is one.
type agentFinder interface {
	FindAgents(ctx context.Context) (agents map[string]consul.AgentEntry, strays []string, err error)
}

const (
	readTimeout   = 10 * time.Second // of one reading of Nomad or Consul
	queueTimeout  = 90 * time.Second // of one reading of a queue, whose sources have shorter ones of their own
	findEvery     = 15 * time.Second // how often Consul is asked which agents there are
	jobsAtOnce    = 8
	clockMayBeOff = 5 * time.Minute
)

// observer keeps looking at what queries are about, each thing in a loop of its
// own, and hands what it sees to the book.
type observer struct {
	log   hclog.Logger
	every time.Duration
	book  *book

	nomad  nomadReader
	consul agentFinder
	gather fleet.Config
	pools  []nomad.PoolSpec
	queues []*queue.Queue
	tally  *tally

	kick chan struct{} // a series wants the agents looked at now

	// handing is held from a change of the sight until it is handed on: a query
	// about two parts must not get the older of two sights last.
	handing sync.Mutex
	mu      sync.Mutex
	sight   signal.Sight

	// Of the agents' loop alone.
	agents   map[string]string // addresses by node
	found    time.Time
	offClock map[string]bool
	strays   string
}

// run looks until ctx ends.
func (o *observer) run(ctx context.Context) {
	var loops sync.WaitGroup
	for _, spec := range o.pools {
		loops.Go(func() { o.loop(ctx, nil, func(ctx context.Context, at time.Time) { o.lookAtPool(ctx, at, spec) }) })
	}
	for _, q := range o.queues {
		loops.Go(func() { o.loop(ctx, nil, func(ctx context.Context, at time.Time) { o.lookAtQueue(ctx, at, q) }) })
	}
	loops.Go(func() { o.loop(ctx, o.kick, o.lookAtFleet) })
	loops.Wait()
}

func (o *observer) loop(ctx context.Context, kick <-chan struct{}, look func(context.Context, time.Time)) {
	tick := time.NewTicker(o.every)
	defer tick.Stop()
	for {
		look(ctx, time.Now())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-kick:
		}
	}
}

// put changes the sight and hands it on.
func (o *observer) put(ctx context.Context, p part, change func(*signal.Sight)) {
	if ctx.Err() != nil {
		return
	}
	o.handing.Lock()
	defer o.handing.Unlock()
	o.mu.Lock()
	change(&o.sight)
	now := o.sight
	o.mu.Unlock()
	o.book.seen(p, &now)
}

// show gives a new series its value in what was seen already, and has the
// agents looked at for it if it is about them.
func (o *observer) show(one *series) {
	o.mu.Lock()
	now := o.sight
	o.mu.Unlock()
	one.take(time.Now(), one.query.Value(&now), o.book.fine, o.log)
	if one.parts[part{kind: partFleet}] {
		select {
		case o.kick <- struct{}{}:
		default: // somebody else had it
		}
	}
}

// with returns a copy of m with one more entry: a sight in use never changes.
func with[K comparable, V any](m map[K]V, key K, v V) map[K]V {
	m = maps.Clone(m)
	if m == nil {
		m = make(map[K]V)
	}
	m[key] = v
	return m
}

func (o *observer) lookAtPool(ctx context.Context, at time.Time, spec nomad.PoolSpec) {
	var d nomad.Demand
	err := safely(func() (err error) {
		ctx, cancel := context.WithTimeout(ctx, readTimeout)
		defer cancel()
		d, err = o.nomad.Demand(ctx, spec)
		return err
	})
	o.tally.read("pool", err)
	o.put(ctx, part{partPool, spec.Name}, func(s *signal.Sight) {
		p := signal.Pool{At: at, Demand: d, GPUsPerHost: spec.GPUsPerHost}
		if err != nil {
			p = s.Pools[spec.Name] // what was known stays beside the error
			p.Err = err
		}
		s.Pools = with(s.Pools, spec.Name, p)
	})
}

func (o *observer) lookAtQueue(ctx context.Context, at time.Time, q *queue.Queue) {
	var d queue.Depth
	err := safely(func() (err error) {
		ctx, cancel := context.WithTimeout(ctx, queueTimeout)
		defer cancel()
		d, err = q.Read(ctx, at)
		return err
	})
	o.tally.read("queue", err)
	o.put(ctx, part{partQueue, q.Name}, func(s *signal.Sight) {
		s.Queues = with(s.Queues, q.Name, signal.Queue{At: at, Depth: d, Err: err})
	})
}

// lookAtFleet asks the agents, and Nomad about jobs, if any query is about them.
func (o *observer) lookAtFleet(ctx context.Context, at time.Time) {
	jobs, agents := o.book.needs()
	if len(jobs) == 0 && !agents {
		return
	}
	var group sync.WaitGroup
	var seen *signal.Fleet
	if agents {
		group.Go(func() { seen = o.askAgents(ctx, at) })
	}
	told := o.askJobs(ctx, at, jobs)
	group.Wait()
	o.put(ctx, part{kind: partFleet}, func(s *signal.Sight) {
		s.Jobs = told
		if agents {
			s.Fleet = seen
		}
	})
}

func (o *observer) askAgents(ctx context.Context, at time.Time) *signal.Fleet {
	var readings map[string]fleet.Reading
	err := safely(func() error {
		if err := o.find(ctx, at); err != nil {
			return err
		}
		readings = fleet.Gather(ctx, o.gather, o.agents)
		return nil
	})
	o.tally.read("consul", err)
	if err != nil {
		return &signal.Fleet{At: at, Err: err}
	}
	o.judgeClocks(at, readings)
	o.tally.agents(readings)
	return signal.NewFleet(at, readings)
}

// find keeps the addresses of the agents up to date. Where Consul is away,
// those that it told last are asked: they say themselves whether they are the
// ones that are meant.
func (o *observer) find(ctx context.Context, at time.Time) error {
	if o.agents != nil && at.Sub(o.found) < findEvery {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	entries, strays, err := o.consul.FindAgents(ctx)
	switch {
	case err != nil && o.agents == nil:
		return err
	case err != nil:
		o.log.Warn("cannot ask Consul which agents there are; asking those of before", "error", err)
		return nil
	}
	if said := strings.Join(strays, "; "); said != o.strays {
		if o.strays = said; said != "" {
			o.log.Warn("entries in Consul that can be no agent are left out", "count", len(strays), "entries", fmt.Sprintf("%.1000s", said))
		}
	}
	o.tally.strays.Set(float64(len(strays)))
	addrs := make(map[string]string, len(entries))
	for node, e := range entries {
		addrs[node] = e.Addr
	}
	o.agents, o.found = addrs, at
	return nil
}

// judgeClocks tells of hosts whose clocks are off, once each. Nothing rests on
// those clocks: agents tell ages, and a reading is as of when it was asked for.
func (o *observer) judgeClocks(at time.Time, readings map[string]fleet.Reading) {
	off := make(map[string]bool)
	for node, r := range readings {
		if r.Err != nil {
			continue
		}
		by := r.Snapshot.At.Sub(at)
		if by.Abs() <= clockMayBeOff {
			continue
		}
		if off[node] = true; !o.offClock[node] {
			o.log.Warn("the clock of a host is off, which samples do not depend on", "node", node, "by", by.Round(time.Second))
		}
	}
	o.offClock = off
	o.tally.offClocks(len(off))
}

func (o *observer) askJobs(ctx context.Context, at time.Time, jobs []signal.JobID) map[signal.JobID]signal.Job {
	told := make([]signal.Job, len(jobs))
	var group errgroup.Group
	group.SetLimit(jobsAtOnce)
	for i, id := range jobs {
		group.Go(func() error {
			told[i].At = at
			told[i].Err = safely(func() (err error) {
				ctx, cancel := context.WithTimeout(ctx, readTimeout)
				defer cancel()
				told[i].Groups, err = o.nomad.Groups(ctx, id.Namespace, id.Job)
				return err
			})
			o.tally.read("job", told[i].Err)
			return nil
		})
	}
	_ = group.Wait() // each keeps its own error
	out := make(map[signal.JobID]signal.Job, len(jobs))
	for i, id := range jobs {
		out[id] = told[i]
	}
	return out
}

// safely keeps a bug from ending the plugin, which nothing starts again.
func safely(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f()
}
