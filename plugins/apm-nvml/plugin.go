package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/plugins/apm"
	"github.com/hashicorp/nomad-autoscaler/plugins/base"
	"github.com/hashicorp/nomad-autoscaler/sdk"
	nomadconfig "github.com/hashicorp/nomad-autoscaler/sdk/helper/nomad"

	"github.com/gpupool/gpupool/internal/inventory"
	"github.com/gpupool/gpupool/internal/nomad"
	"github.com/gpupool/gpupool/internal/pluginconfig"
	"github.com/gpupool/gpupool/internal/setting"
)

// pluginName must equal the file name of the binary and the driver in the
// autoscaler's configuration.
const pluginName = "apm-nvml"

// readTimeout bounds one reading of Nomad.
const readTimeout = 10 * time.Second

var _ apm.APM = (*plugin)(nil)

// plugin answers queries from the samples that its watches take.
type plugin struct {
	log hclog.Logger

	mu      sync.RWMutex
	watches map[string]*watch
	cancel  context.CancelFunc
}

func newPlugin(log hclog.Logger) *plugin {
	return &plugin{log: log, cancel: func() {}}
}

// PluginInfo names the plugin.
func (p *plugin) PluginInfo() (*base.PluginInfo, error) {
	return &base.PluginInfo{Name: pluginName, PluginType: sdk.PluginTypeAPM}, nil
}

// settings is the plugin's own configuration.
type settings struct {
	pools              string
	sample, keep, hold time.Duration
}

func declare(r pluginconfig.Reader) settings {
	return settings{
		pools:  r.String("pools", "", "Path of the inventory, pools.hcl.", setting.NotEmpty()),
		sample: r.Duration("sample", 5*time.Second, "Time between readings of Nomad.", setting.Between(time.Second, 10*time.Minute)),
		keep:   r.Duration("history", 6*time.Hour, "How far back samples are kept, in memory: at least the longest query_window.", setting.Between(time.Minute, 14*24*time.Hour)),
		hold:   r.Duration("hold", 2*time.Minute, "How long the last sample stands while Nomad cannot be read. After it, queries answer an error.", setting.Between(time.Second, time.Hour)),
	}
}

// SetConfig replaces the configuration. It fails on what is wrong in the
// configuration itself, and then leaves the one before in place. Pools that
// are still there keep their samples.
func (p *plugin) SetConfig(config map[string]string) error {
	r := pluginconfig.Read(pluginName, config)
	s := declare(r)
	if err := r.Err(); err != nil {
		return err
	}
	inv, err := inventory.Load(s.pools, withoutPower)
	if err != nil {
		return err
	}
	client, err := nomad.New(nomad.Config{API: nomadconfig.ConfigFromNamespacedMap(config), Logger: p.log})
	if err != nil {
		return err
	}

	p.mu.Lock()
	defer p.mu.Unlock()
	p.cancel()
	ctx, cancel := context.WithCancel(context.Background())
	old := p.watches
	p.cancel, p.watches = cancel, make(map[string]*watch)
	for _, ip := range inv.Pools {
		w := &watch{
			spec:  specOf(ip),
			from:  client,
			every: s.sample, keep: s.keep, hold: s.hold, timeout: readTimeout,
			log: p.log,
		}
		if o, ok := old[ip.Name]; ok {
			w.samples = o.all()
		}
		p.watches[ip.Name] = w
		go w.run(ctx)
	}
	return nil
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

func (w *watch) all() []sample {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.samples)
}

func (p *plugin) stop() {
	p.mu.RLock()
	defer p.mu.RUnlock()
	p.cancel()
}

// Query answers one series, never an empty one: the autoscaler gives up a
// whole policy for that.
func (p *plugin) Query(text string, r sdk.TimeRange) (sdk.TimestampedMetrics, error) {
	p.mu.RLock()
	watches := p.watches
	p.mu.RUnlock()
	q, err := parse(text, slices.Sorted(maps.Keys(watches)))
	if err != nil {
		return nil, err
	}
	samples, err := watches[q.pool].between(r.From, r.To)
	if err != nil {
		return nil, err
	}
	out := make(sdk.TimestampedMetrics, len(samples))
	for i, s := range samples {
		out[i] = sdk.TimestampedMetric{Timestamp: s.at, Value: q.signal.of(s.Demand)}
	}
	return out, nil
}

// QueryMultiple is for the enterprise autoscaler's application sizing.
func (p *plugin) QueryMultiple(string, sdk.TimeRange) ([]sdk.TimestampedMetrics, error) {
	return nil, fmt.Errorf("%s answers one series for each query: use it in a policy's check", pluginName)
}
