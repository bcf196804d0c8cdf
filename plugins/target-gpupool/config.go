package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	nomadconfig "github.com/hashicorp/nomad-autoscaler/sdk/helper/nomad"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/inventory"
	"github.com/gpupool/gpupool/internal/jsonl"
	"github.com/gpupool/gpupool/internal/live"
	"github.com/gpupool/gpupool/internal/nomad"
	"github.com/gpupool/gpupool/internal/pluginconfig"
	"github.com/gpupool/gpupool/internal/pluginhost"
	"github.com/gpupool/gpupool/internal/power/drivers"
	"github.com/gpupool/gpupool/internal/reach"
	"github.com/gpupool/gpupool/internal/setting"
)

// defaultListen is beside the agent's 9109.
const defaultListen = "127.0.0.1:9110"

// settings is the plugin's own configuration.
type settings struct {
	pools   string
	consul  consul.Config
	agents  reach.Agents
	lease   time.Duration
	ownNode string
	listen  string
	steps   jsonl.Config
}

func readSettings(config map[string]string) (settings, error) {
	r := pluginconfig.Read(pluginName, config)
	s := declare(r)
	return s, r.Err()
}

func declare(r pluginconfig.Reader) settings {
	s := settings{
		pools:  r.String("pools", "", "Path of the inventory, pools.hcl.", setting.NotEmpty()),
		consul: reach.Consul(r),
		agents: reach.DeclareAgents(r),
		lease:  r.Duration("lease_ttl", consul.DefaultTTL, "How long the lease of a pool outlives its holder. Shorter is faster to fail over; longer rides out slower networks, and gives slow power controllers more time: a power command may take two fifths of it.", setting.Between(consul.MinTTL, consul.MaxTTL)),
	}
	s.listen = r.Listen(defaultListen, "Where /metrics and /healthz are served, as host:port, or off. They say how many hosts there are and what goes wrong, and no credential; whoever may connect may read them.")
	s.steps = jsonl.Config{
		Path:     r.String("decision_log", "", "File to keep each tick in that decided something, as JSON lines. Its folder must be there. Empty: none is kept."),
		MaxBytes: int64(r.Size("decision_log_size", 64<<20, "Size from which on the next file is begun; the older ones are named .1, .2 and so on.", setting.Between[setting.Size](1<<20, 1<<40))),
		Keep:     r.Int("decision_log_keep", 4, "How many older files are kept.", setting.Between(0, 999)),
	}
	if s.steps.Keep == 0 {
		s.steps.Keep = -1 // none, which a log says so
	}
	s.ownNode = r.String("own_node", "", "Name of the Nomad node that the autoscaler runs on, if that is a host of a pool: it is never taken out of service. Empty means the node of the autoscaler's own allocation or, outside Nomad, the name of the machine.")
	return s
}

// declarePolicy reads a policy's target block: the name of its pool.
func declarePolicy(r pluginconfig.Reader) string {
	return r.String("pool", "", "The pool of pools.hcl that this policy scales.", setting.NotEmpty())
}

// built is what a configuration comes to.
type built struct {
	runners map[string]*live.Runner
	steps   *steps
	listen  string // pluginconfig.ListenOff for nowhere
}

// build makes a runner for each pool of the inventory, all of them or none, and
// reports all mistakes together. It reads files and the environment, and does
// no other I/O.
func build(config map[string]string, m *meter, log hclog.Logger) (built, error) {
	s, wrong := readSettings(config)
	inv, err := loadInventory(s.pools)
	wrong = errors.Join(wrong, err)
	cc, err := consul.New(s.consul)
	wrong = errors.Join(wrong, named(err))
	nc, err := nomad.New(nomad.Config{API: nomadconfig.ConfigFromNamespacedMap(config), Logger: log})
	wrong = errors.Join(wrong, named(err))
	gather, err := s.agents.Gather(pluginhost.Slog(log)) // all pools share it, and its connections
	if wrong = errors.Join(wrong, named(err)); wrong != nil {
		return built{}, wrong
	}
	b := built{steps: newSteps(s.steps, log), listen: s.listen}
	if b.runners, err = assemble(inv, cc, nc, s, gather, m, b.steps, log); err != nil {
		b.steps.close()
		return built{}, err
	}
	return b, nil
}

func named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", pluginName, err)
}

// loadInventory reads pools.hcl, if it is given: that it is not is a mistake
// that was reported already.
func loadInventory(path string) (*inventory.Inventory, error) {
	if path == "" {
		return nil, nil
	}
	inv, err := inventory.Load(path, drivers.Check)
	if err != nil {
		return nil, fmt.Errorf("%s: pools: %w", pluginName, err)
	}
	return inv, nil
}

// assemble makes a runner for each pool. All hosts that cannot be made are
// reported together.
func assemble(inv *inventory.Inventory, cc *consul.Client, nc *nomad.Client, s settings, gather fleet.Config, m *meter, l *steps, log hclog.Logger) (map[string]*live.Runner, error) {
	for _, w := range inv.Warnings {
		log.Warn(w)
	}
	runners := make(map[string]*live.Runner, len(inv.Pools))
	var errs []error
	for _, p := range inv.Pools {
		hosts, err := live.Hosts(p)
		limits := live.Limits(p)
		if err := errors.Join(err, limits.Validate()); err != nil {
			errs = append(errs, fmt.Errorf("%s: pools: %s: pool %q: %w", pluginName, s.pools, p.Name, err))
			continue
		}
		tick, timed := observe(p.Name, m, l)
		site := live.NewSite(live.SiteConfig{
			Hosts: hosts, Nomad: nc, Consul: cc,
			Spec: live.Spec(p), Kinds: live.Kinds(p), Own: own(s.ownNode),
			Agent:         limits.Agent,
			DrainDeadline: p.DrainDeadline,
			Gather:        gather,
			PowerRest:     p.StaleAfter / 2,
			Timed:         timed,
			Log:           log.With("pool", p.Name),
		})
		runners[p.Name] = live.NewRunner(live.RunnerConfig{
			Pool: p.Name, Site: site, Consul: cc, Limits: limits, Poll: p.Poll, Log: log, Told: tick,
			Lease: consul.LeaseConfig{Holder: holder(), TTL: s.lease, Logger: log},
		})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return runners, nil
}

// own is where this process runs.
func own(node string) live.Own {
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	return live.Own{Node: node, Alloc: os.Getenv("NOMAD_ALLOC_ID"), Host: host}
}

// holder names this process to people.
func holder() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	if alloc := os.Getenv("NOMAD_ALLOC_ID"); alloc != "" {
		return fmt.Sprintf("%s allocation %.8s pid %d", host, alloc, os.Getpid())
	}
	return fmt.Sprintf("%s pid %d", host, os.Getpid())
}
