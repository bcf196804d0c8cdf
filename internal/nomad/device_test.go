package nomad

import (
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
)

const (
	h100 = "NVIDIA H100 80GB HBM3"
	a100 = "NVIDIA A100-SXM4-80GB"
)

func TestParseDevice(t *testing.T) {
	for name, want := range map[string]device{
		"gpu":                 {"", "gpu", ""},
		"nvidia/gpu":          {"nvidia", "gpu", ""},
		"nvidia/gpu/" + h100:  {"nvidia", "gpu", h100},
		"nvidia/gpu/a/b":      {"nvidia", "gpu", "a/b"},
		"":                    {"", "", ""},
		"nvidia/gpu/MIG 1g.5": {"nvidia", "gpu", "MIG 1g.5"},
	} {
		if got := parseDevice(name); got != want {
			t.Errorf("%q: got %+v, want %+v", name, got, want)
		}
	}
}

func TestHealthyGPUs(t *testing.T) {
	res := &api.NodeResources{Devices: []*api.NodeDeviceResource{
		{Vendor: "nvidia", Type: "gpu", Name: h100, Instances: instances(true, true, false)},
		{Vendor: "nvidia", Type: "gpu", Name: a100, Instances: instances(true)},
		{Vendor: "amd", Type: "gpu", Name: "MI300X", Instances: instances(true, true)},
		{Vendor: "intel", Type: "fpga", Name: "F", Instances: instances(true)},
		nil,
		{Vendor: "nvidia", Type: "gpu", Name: "empty", Instances: []*api.NodeDevice{nil}},
	}}
	for spec, want := range map[string]int{
		"nvidia/gpu":          3,
		"nvidia/gpu/" + h100:  2,
		"nvidia/gpu/other":    0,
		"amd/gpu":             2,
		"gpu":                 5,
		"intel/fpga/F":        1,
		"nvidia/gpu/NVIDIA H": 0,
	} {
		if got := healthyGPUs(res, parseDevice(spec)); got != want {
			t.Errorf("%s: got %d, want %d", spec, got, want)
		}
	}
	if got := healthyGPUs(nil, parseDevice("gpu")); got != 0 {
		t.Errorf("a node without resources has %d GPUs", got)
	}
}

func instances(healthy ...bool) []*api.NodeDevice {
	var list []*api.NodeDevice
	for _, h := range healthy {
		list = append(list, &api.NodeDevice{Healthy: h})
	}
	return list
}

func TestHeldGPUs(t *testing.T) {
	res := &api.AllocatedResources{Tasks: map[string]*api.AllocatedTaskResources{
		"train": {Devices: []*api.AllocatedDeviceResource{
			{Vendor: "nvidia", Type: "gpu", Name: h100, DeviceIDs: []string{"0", "1"}},
			{Vendor: "mellanox", Type: "nic", Name: "CX7", DeviceIDs: []string{"mlx0"}},
		}},
		"warm-up": {Devices: []*api.AllocatedDeviceResource{
			{Vendor: "nvidia", Type: "gpu", Name: h100, DeviceIDs: []string{"2"}}, nil,
		}},
		"log": nil,
	}}
	if got := heldGPUs(res, parseDevice("nvidia/gpu")); got != 3 {
		t.Errorf("got %d GPUs, want 3: those of all tasks add up, other devices do not count", got)
	}
	if got := heldGPUs(nil, parseDevice("nvidia/gpu")); got != 0 {
		t.Errorf("got %d GPUs of an allocation without resources", got)
	}
}

func TestFits(t *testing.T) {
	unknown := offer{gpu: parseDevice("nvidia/gpu")}
	pure := offer{gpu: parseDevice("nvidia/gpu"), models: []string{h100}, perHost: 8}
	mixed := offer{gpu: parseDevice("nvidia/gpu"), models: []string{a100, h100}, perHost: 8}
	for _, test := range []struct {
		name    string
		offer   offer
		group   *api.TaskGroup
		gpus    int
		why     string // part of it; empty if it fits
		ignored []string
	}{
		{"no device", pure, group(), 0, "", nil},
		{"another vendor's", pure, group(want("amd/gpu", 1)), 0, "", nil},
		{"another type", pure, group(want("fpga", 1)), 0, "", nil},
		{"by type alone", pure, group(want("gpu", 1)), 1, "", nil},
		{"by vendor and type", pure, group(want("nvidia/gpu", 4)), 4, "", nil},
		{"by model", pure, group(want("nvidia/gpu/"+h100, 2)), 2, "", nil},
		{"count left out is one", pure, group(&api.RequestedDevice{Name: "nvidia/gpu"}), 1, "", nil},
		{"several tasks add up", pure, group(want("nvidia/gpu", 2), want("gpu", 1), want("amd/gpu", 5)), 3, "", nil},
		{"another model", pure, group(want("nvidia/gpu/"+a100, 1)), 1, "the pool has " + h100, nil},
		{"another model, of a mixed pool", mixed, group(want("nvidia/gpu/"+a100, 1)), 1, "", nil},
		{"another model, while the pool's are not known", unknown, group(want("nvidia/gpu/"+a100, 1)), 1, "", nil},
		{"more than a host has", pure, group(want("nvidia/gpu", 9)), 9, "a host of the pool has 8", nil},
		{"more than a host has, all tasks taken together", pure, group(want("nvidia/gpu", 5), want("nvidia/gpu", 4)), 9, "asks for 9", nil},
		{"much, while it is not known what a host has", unknown, group(want("nvidia/gpu", 64)), 64, "", nil},
		{"a model by constraint", pure, group(want("gpu", 1, "${device.model}", "=", h100)), 1, "", nil},
		{"another model by constraint", pure, group(want("gpu", 1, "${device.model}", "=", a100)), 1, "${device.model} = " + a100, nil},
		{"not this model", pure, group(want("gpu", 1, "${device.model}", "!=", h100)), 1, "the pool has", nil},
		{"not this model, of a mixed pool", mixed, group(want("gpu", 1, "${device.model}", "!=", h100)), 1, "", nil},
		{"a model by pattern", pure, group(want("gpu", 1, "${device.model}", "regexp", "H[12]00")), 1, "", nil},
		{"a model by a pattern that it is not", pure, group(want("gpu", 1, "${device.model}", "regexp", "^A100")), 1, "the pool has", nil},
		{
			"a pattern that is none", pure, group(want("gpu", 1, "${device.model}", "regexp", "(")), 1, "",
			[]string{"${device.model} regexp ("},
		},
		{"a vendor by constraint", pure, group(want("gpu", 1, "${device.vendor}", "is", "amd")), 1, "the pool has", nil},
		{
			"memory by constraint", pure, group(want("gpu", 1, "${device.attr.memory}", ">=", "40 GiB")), 1, "",
			[]string{"${device.attr.memory} >= 40 GiB"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			asks := asksOf(&api.Job{TaskGroups: []*api.TaskGroup{test.group}})
			gpus, why, ignored := test.offer.fits(asks[0])
			if gpus != test.gpus {
				t.Errorf("got %d GPUs, want %d", gpus, test.gpus)
			}
			if (test.why == "") != (why == "") || !strings.Contains(why, test.why) {
				t.Errorf("got why %q, want %q in it", why, test.why)
			}
			if !slices.Equal(ignored, test.ignored) {
				t.Errorf("got ignored %q, want %q", ignored, test.ignored)
			}
		})
	}
}

func TestConstraintsOnNodesAreSaidToBeIgnored(t *testing.T) {
	rack := &api.Constraint{LTarget: "${meta.rack}", Operand: "=", RTarget: "r1"}
	kernel := &api.Constraint{LTarget: "${attr.kernel.version}", Operand: "version", RTarget: ">= 6"}
	distinct := &api.Constraint{Operand: "distinct_hosts", RTarget: "true"}
	g := group(want("gpu", 1))
	g.Constraints = []*api.Constraint{kernel}
	g.Tasks[0].Constraints = []*api.Constraint{distinct, nil}
	asks := asksOf(&api.Job{Constraints: []*api.Constraint{rack}, TaskGroups: []*api.TaskGroup{g, nil}})
	want := []string{"${meta.rack} = r1", "${attr.kernel.version} version >= 6", "distinct_hosts true"}
	if len(asks) != 1 || !slices.Equal(asks[0].ignored, want) {
		t.Errorf("got %+v, want one group that ignores %q", asks, want)
	}
}

func TestOfferOf(t *testing.T) {
	node := func(name string, model string, gpus int) *api.NodeListStub {
		n := &api.NodeListStub{Name: name, NodeResources: &api.NodeResources{}}
		if gpus > 0 {
			n.NodeResources.Devices = []*api.NodeDeviceResource{
				{Vendor: "nvidia", Type: "gpu", Name: model, Instances: instances(make([]bool, gpus)...)},
			}
		}
		return n
	}
	for _, test := range []struct {
		name    string
		spec    PoolSpec
		nodes   []*api.NodeListStub
		models  []string
		perHost int
	}{
		{"nothing is known", PoolSpec{Device: "nvidia/gpu", Nodes: []string{"n1"}}, nil, nil, 0},
		{
			"every host is known", PoolSpec{Device: "nvidia/gpu", Nodes: []string{"n1", "n2"}},
			[]*api.NodeListStub{node("n1", h100, 4), node("n2", a100, 8)}, []string{a100, h100}, 8,
		},
		{
			"one host never joined", PoolSpec{Device: "nvidia/gpu", Nodes: []string{"n1", "n2"}},
			[]*api.NodeListStub{node("n1", h100, 4)}, nil, 0,
		},
		{
			"one host joined without GPUs", PoolSpec{Device: "nvidia/gpu", Nodes: []string{"n1", "n2"}},
			[]*api.NodeListStub{node("n1", h100, 4), node("n2", "", 0)}, nil, 0,
		},
		{
			"hosts are not listed", PoolSpec{Device: "nvidia/gpu"},
			[]*api.NodeListStub{node("n1", h100, 4)}, nil, 0,
		},
		{
			"the spec outranks the nodes", PoolSpec{Device: "nvidia/gpu/" + h100, GPUsPerHost: 2, Nodes: []string{"n1"}},
			[]*api.NodeListStub{node("n1", h100, 4)}, []string{h100}, 2,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := offerOf(test.spec, test.nodes)
			if !slices.Equal(o.models, test.models) || o.perHost != test.perHost {
				t.Errorf("got models %q and %d GPUs per host, want %q and %d", o.models, o.perHost, test.models, test.perHost)
			}
		})
	}
}

func TestPoolSpecValidate(t *testing.T) {
	if err := (PoolSpec{Name: "h100", Device: "nvidia/gpu"}).Validate(); err != nil {
		t.Error(err)
	}
	err := PoolSpec{Device: "gpu", GPUsPerHost: -1}.Validate()
	for _, want := range []string{"name", `"gpu"`, "-1 GPUs"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %q: %v", want, err)
		}
	}
}

// group is a task group with one task for each device.
func group(devices ...*api.RequestedDevice) *api.TaskGroup {
	g := api.NewTaskGroup("g", 1)
	for _, d := range devices {
		g.AddTask(&api.Task{Resources: &api.Resources{Devices: []*api.RequestedDevice{d}}})
	}
	return g
}

// want asks for a device, with constraints of three words each.
func want(name string, count uint64, constraint ...string) *api.RequestedDevice {
	d := &api.RequestedDevice{Name: name, Count: &count}
	for c := range slices.Chunk(constraint, 3) {
		d.Constraints = append(d.Constraints, api.NewConstraint(c[0], c[1], c[2]))
	}
	return d
}
