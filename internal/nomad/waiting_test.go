package nomad

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/internal/pool"
)

// TestFitting: what waits is told apart by the kinds of hosts that could have
// it, and what more hosts would not help is left out.
func TestFitting(t *testing.T) {
	spec := PoolSpec{Name: "mixed", NodePool: "gpu", Device: "nvidia/gpu"}
	kinds := []Kind{
		{Name: "rented", Device: "nvidia/gpu/" + a100, GPUsPerHost: 2},
		{Name: "owned", Device: "nvidia/gpu/" + h100, GPUsPerHost: 8},
		{Name: "odd", Device: "nvidia/gpu", GPUsPerHost: 1}, // of no known model
	}
	nodePool := "gpu"
	blocked := func(n int, devices ...*api.RequestedDevice) wait {
		return wait{
			job: jobAskOf(&api.Job{NodePool: &nodePool, Datacenters: []string{"*"}, TaskGroups: []*api.TaskGroup{group(devices...)}}),
			eval: &api.Evaluation{FailedTGAllocs: map[string]*api.AllocationMetric{
				"g": {CoalescedFailures: n - 1},
			}},
		}
	}
	quota := blocked(1, want("gpu", 1))
	quota.eval.QuotaLimitReached = "team-a"
	elsewhere := blocked(1, want("gpu", 1))
	elsewhere.job.nodePool = "cpu"

	got := fitting(spec, kinds, []wait{
		blocked(1, want("gpu", 1)),
		blocked(2, want("nvidia/gpu", 1)),
		blocked(3, want("gpu", 2)),
		blocked(4, want("nvidia/gpu/"+h100, 1)),
		blocked(5, want("nvidia/gpu/"+h100, 4)),
		blocked(1, want("gpu", 16)),
		blocked(1, want("amd/gpu", 1)),
		blocked(1),
		quota, elsewhere,
	})
	want := []pool.Ask{
		{GPUs: 1, Count: 3},
		{Classes: []string{"odd", "owned"}, GPUs: 1, Count: 4},
		{Classes: []string{"owned"}, GPUs: 4, Count: 5},
		{Classes: []string{"owned", "rented"}, GPUs: 2, Count: 3},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
