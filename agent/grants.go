package main

import (
	"cmp"
	"context"
	"slices"
	"sync"

	nomadapi "github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/internal/fleet"
)

// grants is which allocation Nomad gave which GPU. The zero value knows nothing.
type grants struct {
	mu      sync.Mutex
	known   bool                     // the last reading succeeded
	running map[string]bool          // the allocations that have not ended
	devices map[string][]fleet.Grant // by UUID of a GPU or a MIG device
	given   map[string][]string      // UUIDs by allocation and task
}

// allocsReader is how the host's allocations are read from Nomad.
type allocsReader = func(ctx context.Context, index uint64) ([]*nomadapi.Allocation, uint64, error)

// follow has the grants learn from whatever is read.
func (g *grants) follow(read allocsReader) allocsReader {
	return func(ctx context.Context, index uint64) ([]*nomadapi.Allocation, uint64, error) {
		allocs, next, err := read(ctx, index)
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.known = err == nil; g.known {
			g.learn(allocs)
		}
		return allocs, next, err
	}
}

// learn replaces what is known, with g.mu held.
func (g *grants) learn(allocs []*nomadapi.Allocation) {
	g.running, g.devices, g.given = map[string]bool{}, map[string][]fleet.Grant{}, map[string][]string{}
	for _, a := range allocs {
		if a == nil || a.ClientTerminalStatus() {
			continue
		}
		g.running[a.ID] = true
		if a.AllocatedResources == nil {
			continue
		}
		for task, r := range a.AllocatedResources.Tasks {
			if r == nil {
				continue
			}
			for _, d := range r.Devices {
				for _, id := range d.DeviceIDs {
					g.devices[id] = append(g.devices[id], fleet.Grant{Alloc: a.ID, Job: a.JobID, Task: task})
					g.given[a.ID+"/"+task] = append(g.given[a.ID+"/"+task], id)
				}
			}
		}
	}
}

// describe adds to each GPU whom Nomad gave it to, and to its processes what
// Nomad says against them. What Nomad says goes before what an environment does:
// work of an allocation that Nomad does not know any more is work outside it. So
// is that of a job that was purged, which has its kill_timeout to end all the same.
func (g *grants) describe(s fleet.Snapshot) fleet.Snapshot {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range s.GPUs {
		gpu := &s.GPUs[i]
		if !g.known {
			gpu.Grants.Quality = fleet.QualityUnknown
			continue
		}
		gpu.Grants = fleet.Grants{Quality: fleet.QualityOK, List: slices.Clone(g.devices[gpu.UUID])}
		for _, d := range gpu.MIG.Devices {
			for _, grant := range g.devices[d.UUID] {
				grant.MIG = d.UUID
				gpu.Grants.List = append(gpu.Grants.List, grant)
			}
		}
		slices.SortFunc(gpu.Grants.List, compareGrants)
		gpu.Grants.List = gpu.Grants.List[:min(len(gpu.Grants.List), fleet.MaxGrants)]
		// The sampler keeps its own.
		gpu.Processes.List = slices.Clone(gpu.Processes.List)
		gpu.MIG.Devices = slices.Clone(gpu.MIG.Devices)
		before := gpu.Processes.Outside
		for j := range gpu.Processes.List {
			p := &gpu.Processes.List[j]
			g.judge(p, gpu.UUID)
			if p.Over {
				disown(gpu, p.MIG)
			}
		}
		s.Outside.Processes += gpu.Processes.Outside - before
		if before == 0 && gpu.Processes.Outside > 0 {
			s.Outside.GPUs++
		}
	}
	return s
}

// disown counts one process more of a GPU, or of a part of it, as outside.
func disown(gpu *fleet.GPU, mig string) {
	gpu.Processes.Outside++
	for i := range gpu.MIG.Devices {
		if d := &gpu.MIG.Devices[i]; d.UUID == mig {
			d.Outside++
		}
	}
}

// judge says of a process whether its allocation has ended, and whether it was
// given the GPU that the process is on. With g.mu held.
func (g *grants) judge(p *fleet.Process, gpu string) {
	if p.Alloc == "" {
		return
	}
	p.Over = !g.running[p.Alloc]
	if given := g.given[p.Alloc+"/"+p.Task]; len(given) > 0 {
		p.Foreign = !slices.Contains(given, gpu) && !slices.Contains(given, p.MIG)
	}
}

func compareGrants(a, b fleet.Grant) int {
	return cmp.Or(cmp.Compare(a.Alloc, b.Alloc), cmp.Compare(a.Task, b.Task), cmp.Compare(a.MIG, b.MIG))
}
