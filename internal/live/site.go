// Package live binds a pool of the inventory to the real world: its BMCs, its
// Nomad nodes, its agents, and its records in Consul, behind the interfaces of
// the control loop. [Runner] is the process that ticks that loop.
package live

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/nomad"
	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
)

// Bounds of one sweep.
const (
	bmcTimeout   = 4 * time.Second // one BMC's answer; a live one takes milliseconds
	bmcAtOnce    = 32              // BMCs asked side by side: more loses datagrams on small links
	agentTimeout = 2 * time.Second // all agents together
)

// watchful is how long after an act on a host its power is read in every
// sweep, whatever [SiteConfig.PowerRest] says.
const watchful = 2 * time.Minute

// Site is one pool as it is. It is safe for concurrent use, and keeps nothing
// between calls but its connections, what it logged, and readings of power
// that are not due again.
type Site struct {
	hosts  []Host
	spec   nomad.PoolSpec
	kinds  []nomad.Kind
	own    Own
	rule   pool.AgentRule
	drain  time.Duration
	nomad  *nomad.Client
	consul *consul.Client
	gather fleet.Config
	rest   time.Duration
	timed  func(call string, took time.Duration, err error)
	log    hclog.Logger

	mu    sync.Mutex
	said  map[string]bool      // what was logged and is still so: a node name for its agent, "" for all agents, see say
	power map[string]reading   // by host
	acted map[string]time.Time // by host, the last act
	node  string               // that this process runs on; empty while not known
}

// Own is what a process knows of where it runs.
type Own struct {
	Node  string // name of its Nomad node, where it was told
	Alloc string // its Nomad allocation, which tells the node
	Host  string // name of the machine, where neither is known
}

// reading is one reading of a host's power.
type reading struct {
	state pool.Power
	err   string // why it is unknown
	at    time.Time
	due   time.Time // when it is to be read again
}

// Host is a configured host and the way to its power.
type Host struct {
	pool.Host
	// Driver is nil where there is none to be had, for who only looks: the
	// power of such a host is unknown, and Blind says why.
	Driver power.Driver
	Blind  string
}

// SiteConfig is what a site is made of.
type SiteConfig struct {
	Hosts  []Host
	Nomad  *nomad.Client
	Consul *consul.Client
	Spec   nomad.PoolSpec
	// Kinds are the classes of a pool of several, for work that waits and fits
	// only some. With fewer than two, nobody asks what waits.
	Kinds []nomad.Kind
	// Own is where this process runs. That host is never taken out of service.
	Own           Own
	Agent         pool.AgentRule
	DrainDeadline time.Duration
	Gather        fleet.Config
	// PowerRest is how long a reading of a host's power stands before its
	// controller is asked again, where nothing was done to the host lately.
	// Many BMCs log every login, and some hang when asked too often. It must
	// be well below the pool's StaleAfter. 0 asks in every sweep. Each reading
	// rests between half of it and all of it, by chance, so that the readings
	// of a rack do not come in one burst for ever.
	PowerRest time.Duration
	// Timed is told how long each call of a power driver took: state, on, soft
	// or hard. It may be called by several goroutines. Default nobody.
	Timed func(call string, took time.Duration, err error)
	// Log tells of agents that cannot be read, once each. Default none.
	Log hclog.Logger
}

// NewSite makes a site. It does no I/O.
func NewSite(cfg SiteConfig) *Site {
	if cfg.Gather.Timeout == 0 {
		cfg.Gather.Timeout = agentTimeout
	}
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	if cfg.Timed == nil {
		cfg.Timed = func(string, time.Duration, error) {}
	}
	return &Site{
		hosts: slices.Clone(cfg.Hosts), spec: cfg.Spec, rule: cfg.Agent, drain: cfg.DrainDeadline,
		kinds: cfg.Kinds, own: cfg.Own, node: cfg.Own.Node,
		nomad: cfg.Nomad, consul: cfg.Consul, gather: cfg.Gather, rest: cfg.PowerRest, timed: cfg.Timed, log: cfg.Log, said: make(map[string]bool),
		power: make(map[string]reading), acted: make(map[string]time.Time),
	}
}

// Close closes the connections to the BMCs.
func (s *Site) Close() error {
	var errs []error
	for _, h := range s.hosts {
		if h.Driver == nil {
			continue
		}
		if err := h.Driver.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close the power driver of %s: %w", h.ID, err))
		}
	}
	return errors.Join(errs...)
}

// Observe reads Nomad, the BMCs and the agents, side by side. Without Nomad
// nothing can be said, so that is its only error.
func (s *Site) Observe(ctx context.Context) (pool.Snapshot, error) {
	views := make([]pool.View, len(s.hosts))
	names := make([]string, len(s.hosts))
	for i, h := range s.hosts {
		views[i].Host, names[i] = h.Host, h.NodeName
	}
	// Without Nomad the others are finished all the same: a BMC has few
	// sessions, and keeps one that was cut off for a minute.
	var g errgroup.Group
	var agents map[string]sight
	var asks []pool.Ask
	g.Go(guard("reading Nomad", func() error { return s.seeNodes(ctx, names, views) }))
	g.Go(guard("reading the power", func() error { s.seePower(ctx, views); return nil }))
	g.Go(guard("reading what waits", func() error { asks = s.seeAsks(ctx); return nil }))
	g.Go(guard("reading the agents", func() error { agents = s.seeAgents(ctx, names); return nil }))
	if err := g.Wait(); err != nil {
		return pool.Snapshot{}, err
	}
	for i := range views {
		if a, ok := agents[views[i].NodeName]; ok {
			views[i].Agent, views[i].AgentAt = a.Agent, a.at
		}
	}
	own := s.ownNode(ctx)
	for i := range views {
		views[i].Self = own != "" && views[i].NodeName == own
	}
	return pool.Snapshot{At: time.Now(), Hosts: views, Asks: asks}, nil
}

// seeAsks reads which work waits, where that decides anything. Without it the
// classes are told apart by cost alone.
func (s *Site) seeAsks(ctx context.Context) []pool.Ask {
	if len(s.kinds) < 2 {
		return nil
	}
	asks, err := s.nomad.Asks(ctx, s.spec, s.kinds)
	s.say(ctx, sayAsks, err)
	return asks
}

// ownNode is the name of the Nomad node that this process runs on, as far as
// it is known.
func (s *Site) ownNode(ctx context.Context) string {
	s.mu.Lock()
	node := s.node
	s.mu.Unlock()
	if node != "" || s.own.Alloc == "" {
		return cmp.Or(node, s.own.Host)
	}
	node, err := s.nomad.NodeOf(ctx, s.own.Alloc)
	s.say(ctx, sayOwn, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.node = node
	return cmp.Or(node, s.own.Host)
}

// guard makes an error of a panic, which in a goroutine would end the process.
func guard(what string, f func() error) func() error {
	return func() (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = newBug(what, p)
			}
		}()
		return f()
	}
}

// bug is a panic that was recovered from.
type bug struct {
	what  string
	panic any
	stack string
}

// newBug must be called by the deferred function that recovered.
func newBug(what string, p any) *bug { return &bug{what, p, string(debug.Stack())} }

func (b *bug) Error() string {
	return fmt.Sprintf("panic while %s, which is a bug of gpupool: %v", b.what, b.panic)
}

func (s *Site) seeNodes(ctx context.Context, names []string, views []pool.View) error {
	at := time.Now()
	nodes, err := s.nomad.Nodes(ctx, s.spec, names)
	if err != nil {
		return err
	}
	for i := range views {
		views[i].Node, views[i].NodeAt = nodes[names[i]], at
	}
	return nil
}

// seePower asks every BMC that is due, with a deadline of its own, so that dead
// ones cost their own answer and nobody else's.
func (s *Site) seePower(ctx context.Context, views []pool.View) {
	var g errgroup.Group
	g.SetLimit(bmcAtOnce)
	for i, h := range s.hosts {
		show := func(r reading) { views[i].Power, views[i].PowerErr, views[i].PowerAt = r.state, r.err, r.at }
		if r, stands := s.rested(h.ID); stands {
			show(r)
			continue
		}
		g.Go(func() error {
			r := s.readPower(ctx, h)
			s.remember(h.ID, r)
			show(r)
			return nil
		})
	}
	_ = g.Wait() // the functions return no error
}

// rested is the last reading of a host's power, if it still stands.
func (s *Site) rested(host string) (reading, bool) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	r, read := s.power[host]
	acted, did := s.acted[host]
	return r, read && now.Before(r.due) && (!did || now.Sub(acted) > watchful)
}

func (s *Site) remember(host string, r reading) {
	if s.rest > 0 {
		r.due = r.at.Add(s.rest - rand.N(s.rest/2+1))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.power[host] = r
}

func (s *Site) readPower(ctx context.Context, h Host) reading {
	r := reading{at: time.Now()}
	if h.Driver == nil {
		r.err = cmp.Or(h.Blind, "it has no power driver")
		return r
	}
	state, err := readPower(ctx, h.Driver)
	s.timed("state", time.Since(r.at), err)
	if r.state = state; err != nil {
		r.state, r.err = pool.PowerUnknown, err.Error()
	}
	return r
}

func readPower(ctx context.Context, d power.Driver) (state pool.Power, err error) {
	ctx, cancel := context.WithTimeout(ctx, bmcTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = newBug("reading the power", p)
		}
	}()
	return d.State(ctx)
}

// sight is what is known of one agent.
type sight struct {
	pool.Agent
	at time.Time
}

// seeAgents joins what Consul says of the agents with what they say. An agent
// that Consul calls passing and that does not answer is not passing.
func (s *Site) seeAgents(ctx context.Context, names []string) map[string]sight {
	if s.rule == pool.AgentNone {
		return nil
	}
	at := time.Now()
	entries, err := s.consul.Agents(ctx)
	s.say(ctx, "", err)
	if err != nil {
		return nil // unknown, which is the zero value
	}
	seen := make(map[string]sight, len(names))
	ask := make(map[string]string)
	for _, n := range names {
		e, ok := entries[n]
		switch {
		case ok && e.Passing:
			ask[n] = e.Addr
		case ok:
			seen[n] = sight{pool.Agent{Status: pool.AgentFailing}, at}
		}
	}
	for n, r := range fleet.Gather(ctx, s.gather, ask) {
		s.say(ctx, n, r.Err)
		if r.Err != nil {
			seen[n] = sight{pool.Agent{Status: pool.AgentFailing}, r.At}
			continue
		}
		seen[n] = sight{hear(r.Snapshot), r.At}
	}
	return seen
}

// What else is logged when it begins, under names that no node has.
const (
	sayAsks = "\x00asks"
	sayOwn  = "\x00own"
)

var sayings = map[string]string{
	sayAsks: "cannot read which work waits, so classes of hosts are told apart by cost alone",
	sayOwn:  "cannot read which node this process runs on, so that host is not spared; set own_node",
}

// say logs why an agent cannot be read, when it begins, and the like. Consul's
// word on the agents is under the empty name.
func (s *Site) say(ctx context.Context, node string, err error) {
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && !s.said[node] {
		if what, other := sayings[node]; other {
			s.log.Warn(what, "error", err)
		} else {
			s.log.Warn("cannot read the agent", "node", cmp.Or(node, "all"), "error", err)
		}
	}
	s.said[node] = err != nil
}

func hear(s fleet.Snapshot) pool.Agent {
	a := pool.Agent{Status: pool.AgentPassing, Outside: s.Outside.GPUs}
	if !s.Outside.Known {
		a.Blind = cmp.Or(s.Outside.Why, "it does not say why")
	}
	return a
}

// Act does one thing to one host.
func (s *Site) Act(ctx context.Context, v pool.View, do pool.Verb) error {
	i := slices.IndexFunc(s.hosts, func(h Host) bool { return h.ID == v.Host.ID })
	if i < 0 {
		return fmt.Errorf("no host %s in this pool", v.Host.ID)
	}
	s.mu.Lock()
	s.acted[v.Host.ID] = time.Now()
	s.mu.Unlock()
	switch do {
	case pool.Enable:
		return s.nomad.Enable(ctx, v.Node.ID, s.spec.Name)
	case pool.Cordon:
		return s.nomad.Cordon(ctx, v.Node.ID)
	case pool.Drain:
		return s.nomad.Drain(ctx, v.Node.ID, nomad.DrainSpec{Deadline: s.drain, Pool: s.spec.Name, Why: "surplus: to be powered off"})
	}
	driver := s.hosts[i].Driver
	if driver == nil {
		return fmt.Errorf("%w: %s has no power driver", power.ErrUnsupported, v.Host.ID)
	}
	began := time.Now()
	var err error
	switch do {
	case pool.TurnOn:
		err = driver.On(ctx)
		s.timed("on", time.Since(began), err)
	case pool.SoftOff:
		err = driver.Off(ctx, power.Soft)
		s.timed("soft", time.Since(began), err)
	case pool.HardOff:
		err = driver.Off(ctx, power.Hard)
		s.timed("hard", time.Since(began), err)
	default:
		err = fmt.Errorf("%s is not a thing to do", do)
	}
	return err
}

// Ambiguous reports whether an act that failed so may still happen. A Nomad or
// a BMC that said no did nothing, and neither did a BMC that was not reached;
// all else may have been done.
func Ambiguous(err error) bool {
	for _, clear := range []error{power.ErrUnreachable, power.ErrAuth, power.ErrRefused, power.ErrCapacity, power.ErrUnsupported, nomad.ErrForeign, nomad.ErrDenied, nomad.ErrNotFound} {
		if errors.Is(err, clear) && !errors.Is(err, power.ErrAmbiguous) {
			return false
		}
	}
	return true
}
