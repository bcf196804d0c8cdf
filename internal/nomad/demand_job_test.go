package nomad

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/internal/nomad/nomadtest"
)

// What a job wants and has, and which hosts are up, against a real Nomad.
func TestGroups(t *testing.T) {
	t.Parallel()
	server := nomadtest.Start(t, "")
	c := connect(t, server.Addr)
	if _, err := c.Groups(t.Context(), "default", "chat"); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), `"chat"`) {
		t.Errorf("no such job: %v", err)
	}
	groups := func() map[string]GroupScale {
		t.Helper()
		g, err := c.Groups(t.Context(), "default", "chat")
		must(t, err)
		return g
	}
	submit(t, server, job("chat", "service", group1("web", 2, 10), group1("big", 1, 1<<20)))
	if diff := cmp.Diff(map[string]GroupScale{"web": {Wanted: 2}, "big": {Wanted: 1}}, groups()); diff != "" {
		t.Errorf("without a host (-want +got):\n%s", diff)
	}
	if d := demand(t, c, gpuPool); len(d.Hosts) != 0 {
		t.Errorf("hosts of none: %+v", d.Hosts)
	}

	client := server.Client("gpu-1", "")
	want := map[string]GroupScale{"web": {Wanted: 2, Placed: 2, Running: 2}, "big": {Wanted: 1}}
	eventually(t, "what fits runs", func() bool { return cmp.Equal(want, groups()) })
	if diff := cmp.Diff([]HostDemand{{Node: "gpu-1", Ready: true}}, demand(t, c, gpuPool).Hosts); diff != "" {
		t.Errorf("hosts (-want +got):\n%s", diff)
	}
	must(t, c.Cordon(t.Context(), one(t, c, "gpu-1").ID))
	if diff := cmp.Diff([]HostDemand{{Node: "gpu-1"}}, demand(t, c, gpuPool).Hosts); diff != "" {
		t.Errorf("a cordoned host (-want +got):\n%s", diff)
	}

	_, _, err := server.API().Jobs().Deregister("chat", false, nil)
	must(t, err)
	if g := groups(); g["web"].Wanted != 0 || g["big"].Wanted != 0 {
		t.Errorf("a stopped job wants %+v", g)
	}
	client.Kill()
	eventually(t, "a host that is down is none", func() bool { return len(demand(t, c, gpuPool).Hosts) == 0 })
}

func TestModel(t *testing.T) {
	is := func(operand, value string) *api.Constraint {
		return api.NewConstraint("${device.model}", operand, value)
	}
	device := func(name string, constraints ...*api.Constraint) *api.RequestedDevice {
		d := want(name, 1)
		d.Constraints = constraints
		return d
	}
	o := offerOf(PoolSpec{Name: "p", Device: "nvidia/gpu"}, nil)
	for _, tt := range []struct {
		name    string
		devices []*api.RequestedDevice
		want    string
	}{
		{"any", []*api.RequestedDevice{device("nvidia/gpu")}, ""},
		{"by name", []*api.RequestedDevice{device("nvidia/gpu/" + h100)}, h100},
		{"by constraint", []*api.RequestedDevice{device("nvidia/gpu", is("=", h100))}, h100},
		{"not one", []*api.RequestedDevice{device("nvidia/gpu", is("!=", h100))}, ""},
		{"two tasks, one model", []*api.RequestedDevice{device("nvidia/gpu/" + h100), device("gpu", is("", h100))}, h100},
		{"two models", []*api.RequestedDevice{device("nvidia/gpu/" + h100), device("nvidia/gpu/" + a100)}, ""},
		{"one task takes any", []*api.RequestedDevice{device("nvidia/gpu/" + h100), device("gpu")}, ""},
		{"another kind beside it", []*api.RequestedDevice{device("nvidia/gpu/" + h100), device("amd/gpu/MI300")}, h100},
	} {
		asks := asksOf(&api.Job{TaskGroups: []*api.TaskGroup{group(tt.devices...)}})
		if got := o.model(asks[0]); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}
