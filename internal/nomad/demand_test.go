package nomad

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hashicorp/nomad/api"
)

func TestNewestEvaluationOfEachJob(t *testing.T) {
	eval := func(id, ns, job, kind, status string, created uint64) *api.Evaluation {
		return &api.Evaluation{ID: id, Namespace: ns, JobID: job, Type: kind, Status: status, CreateIndex: created}
	}
	got := newest([]*api.Evaluation{
		eval("e1", "default", "train", "batch", "blocked", 10),
		eval("e2", "default", "train", "batch", "blocked", 12), // replaces e1
		eval("e3", "ml", "train", "batch", "blocked", 11),      // another job
		eval("e4", "default", "agent", "system", "blocked", 13),
		eval("e5", "default", "once", "sysbatch", "blocked", 14),
		eval("e6", "default", "serve", "service", "complete", 15),
	})
	var ids []string
	for _, e := range got {
		ids = append(ids, e.ID)
	}
	if diff := cmp.Diff([]string{"e2", "e3"}, ids); diff != "" {
		t.Error(diff)
	}
}

func TestInstances(t *testing.T) {
	failed := func(coalesced int) *api.AllocationMetric {
		return &api.AllocationMetric{CoalescedFailures: coalesced}
	}
	for name, test := range map[string]struct {
		failed map[string]*api.AllocationMetric
		queued map[string]int
		want   map[string]int
	}{
		"both agree": {
			map[string]*api.AllocationMetric{"a": failed(2)}, map[string]int{"a": 3, "b": 0}, map[string]int{"a": 3},
		},
		"some were placed since": {
			map[string]*api.AllocationMetric{"a": failed(2)}, map[string]int{"a": 1}, map[string]int{"a": 1},
		},
		"one group was placed since": {
			map[string]*api.AllocationMetric{"a": failed(0), "b": failed(1)}, map[string]int{"a": 0, "b": 2}, map[string]int{"a": 0, "b": 2},
		},
		"the summary says more than failed": {
			map[string]*api.AllocationMetric{"a": failed(0)}, map[string]int{"a": 7}, map[string]int{"a": 1},
		},
		"the summary says that nothing waits": {
			map[string]*api.AllocationMetric{"a": failed(1)}, map[string]int{"a": 0}, map[string]int{"a": 2},
		},
		"no summary": {
			map[string]*api.AllocationMetric{"a": failed(1), "b": nil}, nil, map[string]int{"a": 2, "b": 1},
		},
		"plans were rejected": {
			nil, map[string]int{"a": 2}, map[string]int{"a": 2},
		},
		"nonsense": {
			map[string]*api.AllocationMetric{"a": failed(-5)}, map[string]int{"a": -3}, map[string]int{"a": 1},
		},
	} {
		w := wait{eval: &api.Evaluation{FailedTGAllocs: test.failed}, queued: test.queued}
		if diff := cmp.Diff(test.want, w.instances()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestDemandOf(t *testing.T) {
	spec := PoolSpec{Name: "h100", NodePool: "gpu", Datacenter: "eu-1", Device: "nvidia/gpu/" + h100, GPUsPerHost: 8}
	exhausted := &api.AllocationMetric{
		NodesEvaluated: 2, CoalescedFailures: 1,
		DimensionExhausted: map[string]int{"devices: no devices match request": 2},
	}
	job := func(nodePool string, dcs []string, devices ...*api.RequestedDevice) jobAsk {
		return jobAskOf(&api.Job{NodePool: &nodePool, Datacenters: dcs, TaskGroups: []*api.TaskGroup{group(devices...)}})
	}
	blocked := func(name string, j jobAsk) wait {
		return wait{job: j, eval: &api.Evaluation{
			Namespace: "ml", JobID: name, FailedTGAllocs: map[string]*api.AllocationMetric{"g": exhausted},
		}}
	}
	quota := blocked("over quota", job("gpu", []string{"*"}, want("gpu", 1)))
	quota.eval.QuotaLimitReached = "team-a"
	volume := blocked("no volume", job("gpu", []string{"*"}, want("gpu", 1)))
	volume.eval.MissingNonNodeResources = []string{"csi volume v1"}

	got := demandOf(spec, offerOf(spec, nil), 5, []wait{
		blocked("serve", job("gpu", []string{"eu-*"}, want("nvidia/gpu", 2))),
		blocked("anywhere", job("all", []string{"eu-1", "us-1"}, want("gpu", 1))),
		blocked("too wide", job("gpu", []string{"*"}, want("gpu", 16))),
		blocked("other model", job("gpu", []string{"*"}, want("nvidia/gpu/"+a100, 1))),
		quota,
		volume,
		// These are of no concern to the pool, and are not told of.
		blocked("other pool", job("cpu", []string{"*"}, want("gpu", 1))),
		blocked("default pool", job("", []string{"*"}, want("gpu", 1))),
		blocked("other datacenter", job("gpu", []string{"us-*"}, want("gpu", 1))),
		blocked("no GPU", job("gpu", []string{"*"})),
		blocked("other device", job("gpu", []string{"*"}, want("amd/gpu", 1))),
	})
	want := Demand{
		Allocated: 5,
		Queued:    2*2 + 2*1,
		Jobs: []JobDemand{
			{Namespace: "ml", Job: "anywhere", Group: "g", Instances: 2, GPUs: 1, Counted: true, Why: "devices: no devices match request exhausted on 2 nodes"},
			{Namespace: "ml", Job: "no volume", Group: "g", Instances: 2, GPUs: 1, Why: "waits for what no host brings: csi volume v1"},
			{Namespace: "ml", Job: "other model", Group: "g", Instances: 2, GPUs: 1, Model: a100, Why: "asks for nvidia/gpu/" + a100 + ", and the pool has " + h100},
			{Namespace: "ml", Job: "over quota", Group: "g", Instances: 2, GPUs: 1, Quota: true, Why: `quota "team-a" is used up, which hosts do not change`},
			{Namespace: "ml", Job: "serve", Group: "g", Instances: 2, GPUs: 2, Counted: true, Why: "devices: no devices match request exhausted on 2 nodes"},
			{Namespace: "ml", Job: "too wide", Group: "g", Instances: 2, GPUs: 16, Why: "asks for 16 GPUs in one allocation, and a host of the pool has 8"},
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(JobDemand{}, "Since")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhyBlocked(t *testing.T) {
	many := make(map[string]int)
	for _, dim := range strings.Fields("a b c d e f g h") {
		many[dim] = 1
	}
	for name, test := range map[string]struct {
		metric *api.AllocationMetric
		want   string
	}{
		"no metric":    {nil, "the scheduler gave no reason"},
		"no node":      {&api.AllocationMetric{}, "no node is up"},
		"of two kinds": {&api.AllocationMetric{NodesEvaluated: 3, DimensionExhausted: map[string]int{"memory": 2}, ConstraintFiltered: map[string]int{"missing devices": 1}}, "memory exhausted on 2 nodes; missing devices on 1 nodes"},
		"of many":      {&api.AllocationMetric{NodesEvaluated: 8, ConstraintFiltered: many}, "a on 1 nodes; b on 1 nodes; c on 1 nodes; d on 1 nodes; e on 1 nodes; f on 1 nodes; and more"},
	} {
		if got := whyBlocked(test.metric); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}
