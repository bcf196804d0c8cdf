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
	log hclog.Logger

	config sync.Mutex // one SetConfig at a time

	mu      sync.RWMutex
	runners map[string]*live.Runner
	cancel  context.CancelFunc
}

func newPlugin(log hclog.Logger) *plugin {
	return &plugin{log: log, cancel: func() {}}
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
	runners, err := build(config, p.log)
	if err != nil {
		return err
	}
	p.stopRunners()
	ctx, cancel := context.WithCancel(context.Background())
	for _, r := range runners {
		go r.Run(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.runners, p.cancel = runners, cancel
	return nil
}

// stop gives the leases back when the plugin ends.
func (p *plugin) stop(ctx context.Context) {
	p.mu.RLock()
	runners, cancel := p.runners, p.cancel
	p.mu.RUnlock()
	cancel()
	for _, r := range runners {
		select {
		case <-r.Done():
		case <-ctx.Done():
			return
		}
	}
}

func (p *plugin) stopRunners() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	p.stop(ctx)
}

// runner finds the runner of the pool that a policy's target block names.
func (p *plugin) runner(config map[string]string) (*live.Runner, error) {
	r := pluginconfig.Read(pluginName+" policy", config)
	name := r.String("pool", "", "The pool of pools.hcl that this policy scales.", setting.NotEmpty())
	if err := r.Err(); err != nil {
		return nil, err
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	runner, ok := p.runners[name]
	if !ok {
		known := slices.Sorted(maps.Keys(p.runners))
		return nil, fmt.Errorf("%s policy: pool: %q is not in the inventory; %s", pluginName, name, setting.Suggest(name, known))
	}
	return runner, nil
}

// Status is what is wanted of the pool. It is the wanted count rather than
// what serves now, so that hosts that boot are not ordered twice; and it is
// not ready only while this process may not act or does not know yet.
func (p *plugin) Status(config map[string]string) (*sdk.TargetStatus, error) {
	r, err := p.runner(config)
	if err != nil {
		return nil, err
	}
	s := r.State()
	status := &sdk.TargetStatus{
		Ready: s.Holder && s.WantKnown,
		Count: int64(s.Want),
		Meta: map[string]string{
			"gpupool.have":  strconv.Itoa(s.Decision.Have),
			"gpupool.ready": strconv.Itoa(s.Decision.Ready),
			"gpupool.note":  cmp.Or(s.Why, s.Decision.Note),
		},
	}
	if !status.Ready {
		p.log.Debug("not ready", "pool", config["pool"], "why", cmp.Or(s.Why, "no count was ever wanted yet"))
	}
	return status, nil
}

// Scale writes down how many hosts are wanted, and why. Making it so is the
// background loop's work.
func (p *plugin) Scale(action sdk.ScalingAction, config map[string]string) error {
	r, err := p.runner(config)
	if err != nil {
		return err
	}
	if action.Count < 0 {
		p.log.Info("dry run", "pool", config["pool"], "would_want", action.Meta["nomad_autoscaler.dry_run.count"], "reason", action.Reason)
		return nil
	}
	if s := r.State(); !s.Holder {
		return fmt.Errorf("pool %s: this process does not act on it: %s", config["pool"], cmp.Or(s.Why, "it is starting"))
	}
	ctx, cancel := context.WithTimeout(context.Background(), scaleTimeout)
	defer cancel()
	err = r.SetWant(ctx, int(action.Count), reason(action))
	if errors.Is(err, live.ErrUnchanged) {
		return sdk.NewTargetScalingNoOpError("pool %s: %d hosts are wanted already", config["pool"], action.Count)
	}
	if err != nil {
		return fmt.Errorf("pool %s: want %d hosts: %w", config["pool"], action.Count, err)
	}
	return nil
}

func reason(action sdk.ScalingAction) string {
	if s := strings.TrimSpace(action.Reason); s != "" {
		return s
	}
	return "the autoscaler gave no reason"
}
