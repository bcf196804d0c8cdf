package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/plugins/apm"
	"github.com/hashicorp/nomad-autoscaler/plugins/base"
	"github.com/hashicorp/nomad-autoscaler/sdk"
	nomadconfig "github.com/hashicorp/nomad-autoscaler/sdk/helper/nomad"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/inventory"
	"github.com/gpupool/gpupool/internal/nomad"
	"github.com/gpupool/gpupool/internal/pluginconfig"
	"github.com/gpupool/gpupool/internal/pluginhost"
	"github.com/gpupool/gpupool/internal/promrange"
	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/sources"
	"github.com/gpupool/gpupool/internal/signal"
)

const (
	// pluginName must equal the file name of the binary and the driver in the
	// autoscaler's configuration.
	pluginName = "apm-nvml"

	// firstAnswer is how long the first question of its kind may wait for what
	// is read for it. All others are answered from memory: the autoscaler puts
	// no limit on how long a query takes, and one that hangs freezes its policy.
	firstAnswer = 3 * time.Second

	// stopTimeout is how long readings get to end when the configuration changes.
	stopTimeout = 5 * time.Second
)

var _ apm.APM = (*plugin)(nil)

// plugin answers queries from the samples that are taken in the background.
type plugin struct {
	log hclog.Logger

	config sync.Mutex // one SetConfig at a time

	mu  sync.RWMutex
	now *sampling // nil before the first SetConfig
}

// sampling is what runs under one configuration.
type sampling struct {
	known  signal.Known
	hold   time.Duration
	book   *book
	look   *observer
	keep   *archive   // nil where no history is kept
	queues *queue.Set // nil if there are none
	tally  *tally
	listen string

	cancel context.CancelFunc
	done   sync.WaitGroup
}

func newPlugin(log hclog.Logger) *plugin { return &plugin{log: log} }

// PluginInfo names the plugin.
func (p *plugin) PluginInfo() (*base.PluginInfo, error) {
	return &base.PluginInfo{Name: pluginName, PluginType: sdk.PluginTypeAPM}, nil
}

// SetConfig replaces the configuration. It fails on what is wrong in the
// configuration itself, and then leaves the one before in place. Series that
// can still be asked for keep their samples.
func (p *plugin) SetConfig(config map[string]string) error {
	p.config.Lock()
	defer p.config.Unlock()
	next, err := build(config, p.log)
	if err != nil {
		return err
	}
	p.mu.RLock()
	old := p.now
	p.mu.RUnlock()
	if old != nil {
		old.stop()
		next.inherit(old)
	}
	next.start()
	p.mu.Lock()
	p.now = next
	p.mu.Unlock()
	return nil
}

// build makes all that a configuration asks for. It reads files and the
// environment, and does no other I/O.
func build(config map[string]string, log hclog.Logger) (*sampling, error) {
	r := pluginconfig.Read(pluginName, config)
	s := declare(r)
	wrong := []error{r.Err()}
	var inv *inventory.Inventory
	var err error
	if s.pools != "" {
		inv, err = inventory.Load(s.pools, withoutPower)
		wrong = append(wrong, err)
	}
	var queues *queue.Set
	if s.queues != "" {
		queues, err = sources.Load(s.queues)
		wrong = append(wrong, err)
	}
	agents, err := s.agents.Gather(pluginhost.Slog(log))
	agents.Concurrency, agents.Timeout = s.agentsAtOnce, s.agentTimeout
	wrong = append(wrong, err)
	cc, err := consul.New(s.consul)
	wrong = append(wrong, err)
	nc, err := nomad.New(nomad.Config{API: nomadconfig.ConfigFromNamespacedMap(config), Logger: log})
	wrong = append(wrong, err)
	if err := errors.Join(wrong...); err != nil {
		if queues != nil {
			_ = queues.Close() // nothing was sent
		}
		return nil, err
	}
	return assemble(s, inv, queues, agents, cc, nc, log), nil
}

func assemble(s settings, inv *inventory.Inventory, queues *queue.Set, agents fleet.Config, cc *consul.Client, nc nomadReader, log hclog.Logger) *sampling {
	out := &sampling{hold: s.hold, queues: queues, tally: newTally(), listen: s.listen}
	out.look = &observer{
		log: log, every: s.sample, nomad: nc, consul: cc, tally: out.tally, kick: make(chan struct{}, 1),
		gather: agents,
		sight:  signal.Sight{Coverage: s.coverage, Apart: max(s.hold, 3*s.sample)},
	}
	for _, ip := range inv.Pools {
		out.known.Pools = append(out.known.Pools, ip.Name)
		out.look.pools = append(out.look.pools, specOf(ip))
	}
	if queues != nil {
		for _, w := range queues.Warnings {
			log.Warn(w)
		}
		out.look.queues = queues.Queues
		for _, q := range queues.Queues {
			out.known.Queues = append(out.known.Queues, q.Name)
		}
	}
	switch s.history {
	case historyConsul:
		out.keep = &archive{log: log, consul: cc, tally: out.tally}
	case historyPrometheus:
		out.keep = &archive{log: log, tally: out.tally, prom: &promrange.Config{URL: s.prometheus, Query: s.prometheusQuery, Token: s.prometheusToken}}
	}
	out.book = &book{log: log, fine: s.fine, recorded: out.keep != nil, series: make(map[string]*series)}
	out.look.book = out.book
	return out
}

// start begins to sample, what stands first.
func (s *sampling) start() {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.book.added = func(one *series) {
		if s.keep != nil && one.record != nil {
			go s.keep.load(ctx, one, time.Now()) // not waited for: it may begin after the end
		}
		s.look.show(one)
	}
	for _, one := range s.book.all() {
		s.book.added(one)
	}
	for _, name := range s.known.Pools {
		s.stand(fmt.Sprintf("demand_gpus{pool=%q}", name))
	}
	for _, name := range s.known.Queues {
		s.stand(fmt.Sprintf("queue_demand{source=%q}", name))
	}
	s.done.Go(func() { s.look.run(ctx) })
	if s.keep != nil {
		s.done.Go(func() { s.keep.run(ctx, s.book) })
	}
	if s.listen != pluginconfig.ListenOff {
		s.done.Go(func() { pluginhost.Answer(ctx, s.listen, exposition{s.tally, s.book, s.hold}.handler(), s.look.log) })
	}
}

// stand samples a query that nobody has asked yet. It cannot fail but for a
// bug: a name of the inventory that is no label.
func (s *sampling) stand(text string) {
	q, err := signal.Parse(text, s.known)
	if err == nil {
		_, err = s.book.of(q, true, time.Now())
	}
	if err != nil {
		s.look.log.Error("a series is not sampled", "error", err)
	}
}

// inherit takes over the series that can still be asked for, before anything
// is sampled.
func (s *sampling) inherit(old *sampling) {
	for _, one := range old.book.all() {
		q, err := signal.Parse(one.base, s.known)
		if err != nil {
			continue
		}
		if again := newSeries(q, s.book.recorded); (again.record == nil) != (one.record == nil) {
			one.mu.Lock()
			again.asked, again.fine = one.asked, slices.Clone(one.fine)
			one.mu.Unlock()
			one = again
		}
		s.book.series[one.base] = one
	}
}

// stop ends the sampling, and waits for what is under way, though not for ever.
func (s *sampling) stop() {
	s.cancel()
	done := make(chan struct{})
	go func() {
		s.done.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(stopTimeout):
		s.look.log.Warn("a reading under the old configuration does not end; going on without it")
	}
	if s.queues != nil {
		if err := s.queues.Close(); err != nil {
			s.look.log.Warn("cannot close the queues", "error", err)
		}
	}
}

// specOf says which part of Nomad a pool is. A host's GPUs may be more than
// the pool's usual number.
func specOf(p inventory.Pool) nomad.PoolSpec {
	spec := nomad.PoolSpec{Name: p.Name, NodePool: p.NodePool, Device: p.Device, GPUsPerHost: p.GPUsPerHost}
	for _, h := range p.Hosts {
		spec.Nodes = append(spec.Nodes, h.Node)
		spec.GPUsPerHost = max(spec.GPUsPerHost, h.GPUs)
	}
	return spec
}

// withoutPower keeps this plugin from needing the BMCs' credentials.
func withoutPower(string, func(any) error) (string, error) { return "", nil }

func (p *plugin) stop() {
	p.mu.RLock()
	s := p.now
	p.mu.RUnlock()
	if s != nil {
		s.cancel()
	}
}

// Query answers one series, never an empty one: the autoscaler gives up a
// whole policy for that.
func (p *plugin) Query(text string, r sdk.TimeRange) (sdk.TimestampedMetrics, error) {
	p.mu.RLock()
	s := p.now
	p.mu.RUnlock()
	if s == nil {
		return nil, fmt.Errorf("%s: it has no configuration yet", pluginName)
	}
	out, err := s.answer(text, r)
	s.tally.asked(err)
	return out, err
}

func (s *sampling) answer(text string, r sdk.TimeRange) (sdk.TimestampedMetrics, error) {
	q, err := signal.Parse(text, s.known)
	if err != nil {
		return nil, err
	}
	one, err := s.book.of(q, false, time.Now())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), firstAnswer)
	defer cancel()
	one.await(ctx)
	points, err := one.between(q, r.From, r.To, s.hold)
	if err != nil {
		return nil, err
	}
	out := make(sdk.TimestampedMetrics, len(points))
	for i, p := range points {
		out[i] = sdk.TimestampedMetric{Timestamp: p.At, Value: p.Value}
	}
	return out, nil
}

// QueryMultiple is for the enterprise autoscaler's application sizing.
func (p *plugin) QueryMultiple(string, sdk.TimeRange) ([]sdk.TimestampedMetrics, error) {
	return nil, fmt.Errorf("%s answers one series for each query: use it in a policy's check", pluginName)
}
