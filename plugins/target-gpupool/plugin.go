package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/plugins/base"
	"github.com/hashicorp/nomad-autoscaler/plugins/target"
	"github.com/hashicorp/nomad-autoscaler/sdk"

	"github.com/gpupool/gpupool/internal/live"
	"github.com/gpupool/gpupool/internal/pluginconfig"
	"github.com/gpupool/gpupool/internal/pluginhost"
	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/setting"
)

const (
	// pluginName must equal the file name of the binary and the driver in the
	// autoscaler's configuration.
	pluginName = "target-gpupool"

	// scaleTimeout bounds Scale, which the autoscaler does not.
	scaleTimeout = 5 * time.Second

	// stopTimeout is how long the runners of an old configuration get to stop
	// before the new ones start. They are fenced anyway.
	stopTimeout = 5 * time.Second
)

var _ target.Target = (*plugin)(nil)

// plugin maps the autoscaler's calls to the runners of the pools. Status
// answers from memory and Scale with one write to Consul: whatever takes time
// is done in the background.
type plugin struct {
	log  hclog.Logger
	life context.Context // of all runners, ever
	end  context.CancelFunc

	config sync.Mutex // one SetConfig at a time

	meter *meter

	mu      sync.RWMutex
	runners map[string]*live.Runner // nil before the first SetConfig
	steps   *steps                  // of these runners
	cancel  context.CancelFunc      // of these runners, and of the listener
	served  chan struct{}           // closed when the listener is
}

func newPlugin(log hclog.Logger) *plugin {
	life, end := context.WithCancel(context.Background())
	p := &plugin{log: log, life: life, end: end, cancel: func() {}}
	p.meter = newMeter(p.all)
	return p
}

// all are the runners of now.
func (p *plugin) all() map[string]*live.Runner {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.runners
}

// PluginInfo names the plugin.
func (p *plugin) PluginInfo() (*base.PluginInfo, error) {
	return &base.PluginInfo{Name: pluginName, PluginType: sdk.PluginTypeTarget}, nil
}

// SetConfig replaces the configuration, at the start and whenever the
// autoscaler reloads. It fails on what is wrong in the configuration itself,
// and then leaves the one before in place; that Consul, Nomad or a BMC is away
// is no reason to fail.
func (p *plugin) SetConfig(config map[string]string) error {
	p.config.Lock()
	defer p.config.Unlock()
	b, err := build(config, p.meter, p.log)
	if err != nil {
		return err
	}
	p.mu.RLock()
	cancel, old, before := p.cancel, p.runners, p.steps
	p.mu.RUnlock()
	cancel()
	ctx, stop := context.WithTimeout(p.life, stopTimeout)
	defer stop()
	p.await(ctx)
	before.close()

	next, cancel := context.WithCancel(p.life)
	for _, r := range b.runners {
		go r.Run(next)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if b.listen != pluginconfig.ListenOff {
			pluginhost.Answer(next, b.listen, handler(p.meter), p.log)
		}
	}()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.meter.keep(old)
	p.runners, p.steps, p.cancel, p.served = b.runners, b.steps, cancel, served
	return nil
}

// stop gives the leases back when the plugin ends. Nothing starts after it.
func (p *plugin) stop(ctx context.Context) {
	p.end()
	p.await(ctx)
	p.mu.RLock()
	defer p.mu.RUnlock()
	p.steps.close()
}

// await waits until the runners have stopped, or ctx ends.
func (p *plugin) await(ctx context.Context) {
	p.mu.RLock()
	runners, served := p.runners, p.served
	p.mu.RUnlock()
	for _, r := range runners {
		select {
		case <-r.Done():
		case <-ctx.Done():
			return
		}
	}
	if served != nil {
		select {
		case <-served: // its address is free for the next one
		case <-ctx.Done():
		}
	}
}

// runner finds the runner of the pool that a policy's target block names.
func (p *plugin) runner(config map[string]string) (string, *live.Runner, error) {
	r := pluginconfig.Read(pluginName+" policy", config)
	name := declarePolicy(r)
	if err := r.Err(); err != nil {
		return "", nil, err
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	runner, ok := p.runners[name]
	switch {
	case p.runners == nil:
		return "", nil, fmt.Errorf("%s: it has no configuration yet", pluginName)
	case !ok:
		known := slices.Collect(maps.Keys(p.runners))
		return "", nil, fmt.Errorf("%s policy: pool: %.80q is not in the inventory; %s", pluginName, name, setting.Suggest(name, known))
	}
	return name, runner, nil
}

// Status is what is wanted of the pool. It is the wanted count rather than
// what serves now, so that hosts that boot are not ordered twice; and it is
// not ready only while this process may not act or does not know yet.
func (p *plugin) Status(config map[string]string) (*sdk.TargetStatus, error) {
	name, r, err := p.runner(config)
	if err != nil {
		return nil, err
	}
	s := r.State()
	if !s.Ready {
		p.log.Debug("not ready", "pool", name, "why", s.Why)
	}
	meta := map[string]string{
		"gpupool.have":  strconv.Itoa(s.Decision.Have),
		"gpupool.ready": strconv.Itoa(s.Decision.Ready),
		"gpupool.note":  cmp.Or(s.Why, s.Decision.Note),
	}
	if slow := slowest(s.Times); len(slow.Boot.Last) > 0 {
		meta["gpupool.boot_p50"] = slow.Boot.Quantile(0.5).String()
		meta["gpupool.boot_p95"] = slow.Boot.Quantile(0.95).String()
	}
	return &sdk.TargetStatus{Ready: s.Ready, Count: int64(s.Want), Meta: meta}, nil
}

// slowest are the times of the class that is the slowest to boot: whoever
// plans ahead does not know which class will be powered on.
func slowest(times map[string]pool.Times) pool.Times {
	var slow pool.Times
	for _, t := range times {
		if t.Boot.Quantile(0.95) > slow.Boot.Quantile(0.95) {
			slow = t
		}
	}
	return slow
}

// Scale writes down how many hosts are wanted, and why. Making it so is the
// background loop's work.
func (p *plugin) Scale(action sdk.ScalingAction, config map[string]string) error {
	pool, r, err := p.runner(config)
	if err != nil {
		return err
	}
	if s := r.State(); !s.Ready {
		return fmt.Errorf("pool %s: it cannot be scaled now: %s", pool, s.Why)
	}
	switch {
	case action.Count == sdk.StrategyActionMetaValueDryRunCount:
		return p.dryRun(pool, r, action)
	case action.Count < 0:
		return fmt.Errorf("pool %s: want %d hosts: that is less than none", pool, action.Count)
	}
	ctx, cancel := context.WithTimeout(p.life, scaleTimeout)
	defer cancel()
	err = r.SetWant(ctx, int(action.Count), reason(action))
	switch {
	case errors.Is(err, live.ErrUnchanged):
		return sdk.NewTargetScalingNoOpError("pool %s: %d hosts are wanted already", pool, action.Count)
	case err != nil:
		return fmt.Errorf("pool %s: want %d hosts: %w", pool, action.Count, err)
	}
	return nil
}

// dryRunCount is the key of the count that a dry run would have set. Source:
// nomad-autoscaler v0.5.0 sdk/strategy.go, ScalingAction.SetDryRun.
const dryRunCount = "nomad_autoscaler.dry_run.count"

// dryRun logs what Scale would have led to, from what was seen last.
func (p *plugin) dryRun(pool string, r *live.Runner, action sdk.ScalingAction) error {
	var n int
	switch v := action.Meta[dryRunCount].(type) {
	case int64:
		n = int(v)
	case float64: // it came as JSON
		n = int(v)
	default:
		return fmt.Errorf("pool %s: a dry run without a count: %s is %v", pool, dryRunCount, v)
	}
	decision, err := r.Plan(n)
	steps := make([]string, len(decision.Actions))
	for i, a := range decision.Actions {
		steps[i] = a.String()
	}
	args := []any{"pool", pool, "would_want", n, "reason", reason(action), "would_do_now", steps, "note", decision.Note}
	if err != nil {
		args = append(args, "but", err)
	}
	p.log.Info("dry run, nothing is changed", args...)
	return nil
}

func reason(action sdk.ScalingAction) string {
	return cmp.Or(strings.TrimSpace(action.Reason), "the autoscaler gave no reason")
}
