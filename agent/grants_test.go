package main

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	nomadapi "github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/internal/fleet"
)

// given is an allocation whose one task was given devices.
func given(id, status string, devices ...string) *nomadapi.Allocation {
	return &nomadapi.Allocation{ID: id, JobID: "chat", ClientStatus: status, AllocatedResources: &nomadapi.AllocatedResources{
		Tasks: map[string]*nomadapi.AllocatedTaskResources{"server": {
			Devices: []*nomadapi.AllocatedDeviceResource{{Vendor: "nvidia", Type: "gpu", Name: "H100", DeviceIDs: devices}},
		}},
	}}
}

// TestGrants: two GPUs, one of them divided, and who is on them.
func TestGrants(t *testing.T) {
	mine := func(pid int, alloc, mig string) fleet.Process {
		return fleet.Process{PID: pid, Alloc: alloc, Task: "server", MIG: mig}
	}
	sampled := fleet.Snapshot{Outside: fleet.Outside{Known: true, GPUs: 1, Processes: 1}, GPUs: []fleet.GPU{
		{UUID: "GPU-1", Processes: fleet.Processes{Quality: fleet.QualityOK, Total: 5, Outside: 1, List: []fleet.Process{
			{PID: 1, Comm: "miner"}, mine(2, "a", ""), mine(3, "b", ""), mine(4, "ended", ""), mine(5, "forgotten", ""),
		}}},
		{UUID: "GPU-2", MIG: fleet.MIG{Enabled: true, Devices: []fleet.MIGDevice{{UUID: "MIG-1", Processes: 2}, {UUID: "MIG-2", Processes: 1}}},
			Processes: fleet.Processes{Quality: fleet.QualityOK, Total: 3, List: []fleet.Process{mine(6, "b", "MIG-1"), mine(7, "b", "MIG-2"), mine(8, "purged", "MIG-1")}}},
		{UUID: "GPU-3"},
	}}
	var g grants
	read := g.follow(func(context.Context, uint64) ([]*nomadapi.Allocation, uint64, error) {
		return []*nomadapi.Allocation{
			given("a", "pending", "GPU-1"), given("b", "running", "MIG-1"), given("ended", "complete", "GPU-1", "GPU-3"),
			{ID: "c", ClientStatus: "running"}, nil,
		}, 7, nil
	})
	if s := g.describe(sampled); s.GPUs[0].Grants.Quality != fleet.QualityUnknown {
		t.Errorf("grants before Nomad was asked are %+v", s.GPUs[0].Grants)
	}
	if allocs, next, err := read(t.Context(), 0); len(allocs) != 5 || next != 7 || err != nil {
		t.Errorf("what was read is not passed on: %d allocations, index %d, %v", len(allocs), next, err)
	}
	s := g.describe(sampled)
	for i, want := range [][]fleet.Grant{
		{{Alloc: "a", Job: "chat", Task: "server"}},
		{{Alloc: "b", Job: "chat", Task: "server", MIG: "MIG-1"}},
		nil,
	} {
		if diff := cmp.Diff(fleet.Grants{Quality: fleet.QualityOK, List: want}, s.GPUs[i].Grants); diff != "" {
			t.Errorf("grants of GPU %d: %s", i, diff)
		}
	}
	type verdict struct{ Foreign, Over bool }
	got := map[int]verdict{}
	for _, gpu := range s.GPUs {
		for _, p := range gpu.Processes.List {
			got[p.PID] = verdict{p.Foreign, p.Over}
		}
	}
	want := map[int]verdict{1: {}, 2: {}, 3: {Foreign: true}, 4: {Over: true}, 5: {Over: true}, 6: {}, 7: {Foreign: true}, 8: {Over: true}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("processes: %s", diff)
	}
	// What is over is outside: the host must not lose its power under it.
	if diff := cmp.Diff(fleet.Outside{Known: true, GPUs: 2, Processes: 4}, s.Outside); diff != "" {
		t.Errorf("outside of the host: %s", diff)
	}
	parts := s.GPUs[1].MIG.Devices
	if a, b := s.GPUs[0].Processes.Outside, s.GPUs[1].Processes.Outside; a != 3 || b != 1 || parts[0].Outside != 1 || parts[1].Outside != 0 {
		t.Errorf("outside are %d and %d processes of the GPUs, and %d and %d of the parts", a, b, parts[0].Outside, parts[1].Outside)
	}

	failing := g.follow(func(context.Context, uint64) ([]*nomadapi.Allocation, uint64, error) {
		return nil, 0, errors.New("down")
	})
	if _, _, err := failing(t.Context(), 7); err == nil {
		t.Error("the failure is not passed on")
	}
	if s := g.describe(fleet.Snapshot{GPUs: []fleet.GPU{{UUID: "GPU-1"}}}); s.GPUs[0].Grants.Quality != fleet.QualityUnknown || s.GPUs[0].Grants.List != nil {
		t.Errorf("grants while Nomad is down are %+v, want none known", s.GPUs[0].Grants)
	}
}

// TestGrantsLeaveTheSamplersOwn: what is added to one snapshot is not in the
// sampler's own list of processes.
func TestGrantsLeaveTheSamplersOwn(t *testing.T) {
	kept := []fleet.Process{{PID: 1, Alloc: "gone", MIG: "MIG-1"}}
	parts := []fleet.MIGDevice{{UUID: "MIG-1", Processes: 1}}
	var g grants
	g.known = true
	s := g.describe(fleet.Snapshot{GPUs: []fleet.GPU{{UUID: "GPU-1", MIG: fleet.MIG{Devices: parts}, Processes: fleet.Processes{List: kept}}}})
	if !s.GPUs[0].Processes.List[0].Over || kept[0].Over {
		t.Errorf("described %+v, and kept %+v", s.GPUs[0].Processes.List, kept)
	}
	if s.GPUs[0].MIG.Devices[0].Outside != 1 || parts[0].Outside != 0 {
		t.Errorf("described %+v, and kept %+v", s.GPUs[0].MIG.Devices, parts)
	}
}
