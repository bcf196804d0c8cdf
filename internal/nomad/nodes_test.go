package nomad

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/internal/pool"
)

func TestMarkOf(t *testing.T) {
	for name, test := range map[string]struct {
		last *api.DrainMetadata
		want pool.Mark
	}{
		"never drained":               {nil, pool.MarkNone},
		"by an operator":              {&api.DrainMetadata{}, pool.MarkForeign},
		"by an operator, with a word": {&api.DrainMetadata{Meta: map[string]string{"message": "disk swap"}}, pool.MarkForeign},
		"by another tool":             {&api.DrainMetadata{Meta: map[string]string{"drained_by": "nomad-autoscaler"}}, pool.MarkForeign},
		"by itself, going down":       {&api.DrainMetadata{Meta: map[string]string{"message": "shutting down"}}, pool.MarkNone},
		"by this pool":                {&api.DrainMetadata{Meta: map[string]string{"gpupool": "drained", "gpupool_pool": "h100", "gpupool_why": "surplus"}}, pool.MarkOurs},
		"given back by this pool":     {&api.DrainMetadata{Meta: map[string]string{"gpupool": "released", "gpupool_pool": "h100"}}, pool.MarkReleased},
		"by another pool":             {&api.DrainMetadata{Meta: map[string]string{"gpupool": "drained", "gpupool_pool": "a100"}}, pool.MarkForeign},
		"by a later version":          {&api.DrainMetadata{Meta: map[string]string{"gpupool": "parked", "gpupool_pool": "h100"}}, pool.MarkForeign},
	} {
		if got := markOf(test.last, "h100"); got != test.want {
			t.Errorf("%s: got %s, want %s", name, got, test.want)
		}
	}
}

func TestChoose(t *testing.T) {
	node := func(id, status string, created uint64) *api.NodeListStub {
		return &api.NodeListStub{ID: id, Status: status, CreateIndex: created}
	}
	for name, test := range map[string]struct {
		nodes   []*api.NodeListStub
		want    string
		problem bool
	}{
		"none":                        {nil, "", false},
		"one, down":                   {[]*api.NodeListStub{node("a", "down", 1)}, "a", false},
		"one, ready":                  {[]*api.NodeListStub{node("a", "ready", 1)}, "a", false},
		"installed anew":              {[]*api.NodeListStub{node("old", "down", 1), node("new", "ready", 2)}, "new", true},
		"installed anew, registering": {[]*api.NodeListStub{node("new", "initializing", 2), node("old", "disconnected", 1)}, "new", true},
		"the older one is alive":      {[]*api.NodeListStub{node("old", "ready", 1), node("new", "down", 2)}, "old", true},
		"both down":                   {[]*api.NodeListStub{node("old", "down", 1), node("new", "down", 2)}, "new", true},
		"both alive":                  {[]*api.NodeListStub{node("a", "ready", 1), node("b", "ready", 2)}, "", true},
		"alive and of unknown status": {[]*api.NodeListStub{node("a", "ready", 1), node("b", "asleep", 2)}, "", true},
		"one of unknown status":       {[]*api.NodeListStub{node("a", "asleep", 1)}, "a", false},
	} {
		got, problem := choose(test.nodes)
		id := ""
		if got != nil {
			id = got.ID
		}
		if id != test.want || (problem != "") != test.problem {
			t.Errorf("%s: got %q with problem %q, want %q", name, id, problem, test.want)
		}
	}
}

func TestWorkByNode(t *testing.T) {
	alloc := func(id, kind, client, desired string) *api.AllocationListStub {
		return &api.AllocationListStub{
			ID: id, NodeID: "n1", JobID: "j-" + id, JobType: kind, ClientStatus: client, DesiredStatus: desired,
			AllocatedResources: &api.AllocatedResources{Tasks: map[string]*api.AllocatedTaskResources{
				"t": {Devices: []*api.AllocatedDeviceResource{{Vendor: "nvidia", Type: "gpu", DeviceIDs: []string{"0"}}}},
			}},
		}
	}
	elsewhere := alloc("z", "batch", "running", "run")
	elsewhere.NodeID = "n2"
	got := workByNode([]*api.AllocationListStub{
		alloc("f", "service", "running", "run"),
		alloc("e", "batch", "pending", "run"),
		alloc("d", "service", "running", "stop"), // told to stop, and still there
		alloc("c", "service", "unknown", "run"),  // cut off, and perhaps still there
		alloc("b", "system", "running", "run"),
		alloc("b2", "sysbatch", "running", "run"),
		alloc("a", "batch", "complete", "run"),
		alloc("a2", "batch", "failed", "run"),
		alloc("a3", "batch", "lost", "stop"),
		elsewhere,
	}, parseDevice("nvidia/gpu"))
	want := map[string][]pool.Alloc{
		"n1": {
			{ID: "c", Job: "j-c", Type: "service", GPUs: 1},
			{ID: "d", Job: "j-d", Type: "service", GPUs: 1},
			{ID: "e", Job: "j-e", Type: "batch", GPUs: 1},
			{ID: "f", Job: "j-f", Type: "service", GPUs: 1},
		},
		"n2": {{ID: "z", Job: "j-z", Type: "batch", GPUs: 1}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestStatus(t *testing.T) {
	for s, want := range map[string]pool.NodeStatus{
		"initializing": pool.NodeInit,
		"ready":        pool.NodeReady,
		"down":         pool.NodeDown,
		"disconnected": pool.NodeDown,
		"":             pool.NodeUnknown,
		"asleep":       pool.NodeUnknown,
	} {
		if got := status(s); got != want {
			t.Errorf("%q: got %s, want %s", s, got, want)
		}
	}
}

// What Nomad, or what stands between, may answer.
func TestErrorClasses(t *testing.T) {
	answer := 0
	body := ""
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(answer)
		_, _ = fmt.Fprint(w, body)
	})
	c := connect(t, srv)
	for _, test := range []struct {
		code int
		body string
		want error
	}{
		{403, "Permission denied", ErrDenied},
		{403, "ACL token not found", ErrDenied},
		{500, "Permission denied", ErrDenied},
		{500, "No cluster leader", ErrUnreachable},
		{500, "rpc error: failed to get conn: dial tcp 10.0.0.1:4647", ErrUnreachable},
		{502, "<html>bad gateway</html>", ErrUnreachable},
		{503, "", ErrUnreachable},
		{504, "", ErrUnreachable},
		{404, "node not found", ErrNotFound},
		{500, "node not found", ErrNotFound},
		{400, "failed to parse filter", nil},
		{500, "something else", nil},
	} {
		answer, body = test.code, test.body
		_, err := c.node(t.Context(), "n1")
		if err == nil || !strings.Contains(err.Error(), srv) {
			t.Fatalf("%d %q: got %v, want an error with the address", test.code, test.body, err)
		}
		for _, class := range []error{ErrDenied, ErrUnreachable, ErrNotFound} {
			if errors.Is(err, class) != (class == test.want) {
				t.Errorf("%d %q: got %v, want class %v", test.code, test.body, err, test.want)
			}
		}
	}
}

func TestGarbageIsAnError(t *testing.T) {
	body := ""
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Nomad-Index", "1")
		w.Header().Set("X-Nomad-LastContact", "0")
		_, _ = fmt.Fprint(w, body)
	})
	c := connect(t, srv)
	spec := PoolSpec{Name: "h100", Device: "nvidia/gpu", Nodes: []string{"n1"}}
	for _, body = range []string{"", "{", "[1]", `{"a":1}`, `[{"ID": 7}]`, strings.Repeat("[", 1<<20)} {
		if _, err := c.Nodes(t.Context(), spec, spec.Nodes); err == nil {
			t.Errorf("%.20q was taken for a list of nodes", body)
		}
		if _, err := c.Demand(t.Context(), spec); err == nil {
			t.Errorf("%.20q was taken for demand", body)
		}
	}
}

// A list that never ends is given up.
func TestEndlessList(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Nomad-Index", "1")
		w.Header().Set("X-Nomad-LastContact", "0")
		w.Header().Set("X-Nomad-NextToken", "again")
		_, _ = fmt.Fprint(w, "[]")
	})
	c := connect(t, srv)
	if _, err := c.nodesNamed(t.Context(), []string{"n1"}); err == nil || !strings.Contains(err.Error(), "no end") {
		t.Errorf("got %v", err)
	}
}

func TestDrainIsRefusedBeforeNomadIsAsked(t *testing.T) {
	c := connect(t, "http://127.0.0.1:1")
	for name, spec := range map[string]DrainSpec{
		"no pool":       {},
		"force at once": {Pool: "h100", Deadline: -time.Second},
	} {
		if err := c.Drain(t.Context(), "n1", spec); err == nil || errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
