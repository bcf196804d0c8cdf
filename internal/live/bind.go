package live

import (
	"errors"
	"fmt"

	"github.com/gpupool/gpupool/internal/inventory"
	"github.com/gpupool/gpupool/internal/nomad"
	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power/drivers"
)

// Hosts makes the hosts of a pool with their power drivers. The error joins
// what is wrong with each, and those have no driver and say why.
func Hosts(p inventory.Pool) ([]Host, error) {
	hosts := make([]Host, 0, len(p.Hosts))
	var errs []error
	for _, h := range p.Hosts {
		host := Host{Host: pool.Host{ID: h.ID, NodeName: h.Node, GPUs: h.GPUs, Class: h.Class, Domain: h.Rack}}
		d, err := drivers.New(h.Power.Driver, h.Power.Decode)
		if err != nil {
			errs = append(errs, fmt.Errorf("host %q: power %q: %w", h.ID, h.Power.Driver, err))
			host.Blind = err.Error()
		} else {
			host.Driver = d
		}
		hosts = append(hosts, host)
	}
	return hosts, errors.Join(errs...)
}

// Blind makes the hosts of a pool without their power drivers, for who is not
// to ask the power controllers.
func Blind(p inventory.Pool, why string) []Host {
	hosts := make([]Host, len(p.Hosts))
	for i, h := range p.Hosts {
		hosts[i] = Host{Host: pool.Host{ID: h.ID, NodeName: h.Node, GPUs: h.GPUs, Class: h.Class, Domain: h.Rack}, Blind: why}
	}
	return hosts
}

// Limits are a pool's rules as its loop wants them.
func Limits(p inventory.Pool) pool.Limits {
	agents := map[string]pool.AgentRule{
		inventory.AgentRequired: pool.AgentRequired,
		inventory.AgentOptional: pool.AgentOptional,
		inventory.AgentNone:     pool.AgentNone,
	}
	work := map[string]pool.WorkRule{
		inventory.DrainNone:     pool.DrainNone,
		inventory.DrainServices: pool.DrainServices,
		inventory.DrainAll:      pool.DrainAll,
	}
	l := pool.Limits{
		Min: p.Min, Max: p.Max, Spare: p.Spare,
		Stagger: p.Stagger, MinOn: p.MinOn, CycleBudget: p.CycleBudget,
		MaxBooting: p.MaxBooting, MaxDraining: p.MaxDraining,
		PowerConfirm: p.PowerConfirm, BootTimeout: p.BootTimeout,
		SoftOffTimeout: p.SoftOffTimeout, HardOff: p.HardOff,
		StaleAfter: p.StaleAfter, Fence: p.Fence,
		Agent: agents[p.Agent], DrainWork: work[p.DrainWork],
		Classes: make(map[string]pool.Class, len(p.Classes)), Budgets: make(map[string]float64, len(p.Racks)),
	}
	for _, c := range p.Classes {
		l.Classes[c.Name] = pool.Class{
			BootWatts: c.WattsBoot, RunWatts: c.WattsRun, Cost: c.CostPerHour,
			Spot: c.Spot, Standby: c.Standby, BootTimeout: c.BootTimeout,
		}
	}
	for _, k := range p.Racks {
		if k.PowerBudget > 0 {
			l.Budgets[k.Name] = float64(k.PowerBudget)
		}
	}
	return l
}

// Kinds are a pool's classes as Nomad's jobs see them.
func Kinds(p inventory.Pool) []nomad.Kind {
	kinds := make([]nomad.Kind, len(p.Classes))
	for i, c := range p.Classes {
		kinds[i] = nomad.Kind{Name: c.Name, Device: c.Device, GPUsPerHost: c.GPUs}
	}
	return kinds
}

// Spec is the part of Nomad that a pool is.
func Spec(p inventory.Pool) nomad.PoolSpec {
	return nomad.PoolSpec{Name: p.Name, NodePool: p.NodePool, Device: p.Device}
}
