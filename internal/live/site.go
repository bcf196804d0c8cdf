// Package live binds a pool of the inventory to the real world: its BMCs, its
// Nomad nodes, its agents, and its records in Consul, behind the interfaces of
// the control loop. [Runner] is the process that ticks that loop.
package live

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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
	rule   pool.AgentRule
	drain  time.Duration
	nomad  *nomad.Client
	consul *consul.Client
	gather fleet.Config
	rest   time.Duration
	log    hclog.Logger

	mu    sync.Mutex
	said  map[string]bool      // node names whose agent's trouble was logged; "" is all agents'
	power map[string]reading   // by host
	acted map[string]time.Time // by host, the last act
}

// reading is one reading of a host's power.
type reading struct {
	state pool.Power
	err   string // why it is unknown
	at    time.Time
}

// Host is a configured host and the way to its power.
type Host struct {
	pool.Host
	Driver power.Driver
}

// SiteConfig is what a site is made of.
type SiteConfig struct {
	Hosts         []Host
	Nomad         *nomad.Client
	Consul        *consul.Client
	Spec          nomad.PoolSpec
	Agent         pool.AgentRule
	DrainDeadline time.Duration
	Gather        fleet.Config
	// PowerRest is how long a reading of a host's power stands before its
	// controller is asked again, where nothing was done to the host lately.
	// Many BMCs log every login, and some hang when asked too often. It must
	// be well below the pool's StaleAfter. 0 asks in every sweep.
	PowerRest time.Duration
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
	return &Site{
		hosts: slices.Clone(cfg.Hosts), spec: cfg.Spec, rule: cfg.Agent, drain: cfg.DrainDeadline,
		nomad: cfg.Nomad, consul: cfg.Consul, gather: cfg.Gather, rest: cfg.PowerRest, log: cfg.Log, said: make(map[string]bool),
		power: make(map[string]reading), acted: make(map[string]time.Time),
	}
}

// Close closes the connections to the BMCs.
func (s *Site) Close() error {
	var errs []error
	for _, h := range s.hosts {
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
	g.Go(guard("reading Nomad", func() error { return s.seeNodes(ctx, names, views) }))
	g.Go(guard("reading the power", func() error { s.seePower(ctx, views); return nil }))
	g.Go(guard("reading the agents", func() error { agents = s.seeAgents(ctx, names); return nil }))
	if err := g.Wait(); err != nil {
		return pool.Snapshot{}, err
	}
	for i := range views {
		if a, ok := agents[views[i].NodeName]; ok {
			views[i].Agent, views[i].AgentAt = a.Agent, a.at
		}
	}
	return pool.Snapshot{At: time.Now(), Hosts: views}, nil
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
		g.Go(func() error {
			r, fresh := s.rested(h.ID)
			if !fresh {
				r = reading{at: time.Now()}
				var err error
				if r.state, err = readPower(ctx, h.Driver); err != nil {
					r.state, r.err = pool.PowerUnknown, err.Error()
				}
				s.remember(h.ID, r)
			}
			views[i].Power, views[i].PowerErr, views[i].PowerAt = r.state, r.err, r.at
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
	return r, read && now.Sub(r.at) < s.rest && (!did || now.Sub(acted) > watchful)
}

func (s *Site) remember(host string, r reading) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.power[host] = r
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

// say logs why an agent cannot be read, when it begins. Consul's word on the
// agents is under the empty name.
func (s *Site) say(ctx context.Context, node string, err error) {
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && !s.said[node] {
		s.log.Warn("cannot read the agent", "node", cmp.Or(node, "all"), "error", err)
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
	driver := s.hosts[i].Driver
	switch do {
	case pool.TurnOn:
		return driver.On(ctx)
	case pool.Enable:
		return s.nomad.Enable(ctx, v.Node.ID, s.spec.Name)
	case pool.Cordon:
		return s.nomad.Cordon(ctx, v.Node.ID)
	case pool.Drain:
		return s.nomad.Drain(ctx, v.Node.ID, nomad.DrainSpec{Deadline: s.drain, Pool: s.spec.Name, Why: "surplus: to be powered off"})
	case pool.SoftOff:
		return driver.Off(ctx, power.Soft)
	case pool.HardOff:
		return driver.Off(ctx, power.Hard)
	}
	return fmt.Errorf("%s is not a thing to do", do)
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
