package nomad

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// PoolSpec says which part of Nomad a pool is.
type PoolSpec struct {
	// Name is the pool's name in gpupool, which its drains are marked with.
	Name string
	// NodePool is the Nomad node pool that jobs name to run here. Default
	// "default", as for jobs.
	NodePool string
	// Datacenter is the Nomad datacenter of the hosts. Empty: every job of
	// the node pool is taken to allow it.
	Datacenter string
	// Device is what a GPU of the pool is called in Nomad, as
	// "vendor/type" or "vendor/type/model": "nvidia/gpu", or
	// "nvidia/gpu/NVIDIA H100 80GB HBM3". With the model, jobs that ask for
	// another model are not taken for demand.
	Device string
	// Nodes are the names of the hosts' Nomad nodes. Empty: every node of
	// the node pool belongs to the pool.
	Nodes []string
	// GPUsPerHost is the most GPUs that a host of the pool has. An
	// allocation that asks for more can never run here, and is not taken for
	// demand. 0: not known.
	GPUsPerHost int
}

// Validate reports every mistake of the spec at once.
func (s PoolSpec) Validate() error {
	var errs []error
	if s.Name == "" {
		errs = append(errs, errors.New("pool without a name"))
	}
	if id := parseDevice(s.Device); id.vendor == "" || id.kind == "" {
		errs = append(errs, fmt.Errorf("pool %s: device %q: want vendor/type or vendor/type/model, such as nvidia/gpu", s.Name, s.Device))
	}
	if s.GPUsPerHost < 0 {
		errs = append(errs, fmt.Errorf("pool %s: %d GPUs per host: want 0 or more", s.Name, s.GPUsPerHost))
	}
	return errors.Join(errs...)
}

func (s PoolSpec) nodePool() string {
	if s.NodePool == "" {
		return api.NodePoolDefault
	}
	return s.NodePool
}

// device names a kind of device. In what a job asks for, and in a PoolSpec, an
// empty part stands for any.
type device struct{ vendor, kind, model string }

// parseDevice reads "type", "vendor/type" or "vendor/type/model", as Nomad
// does; a model may contain slashes.
func parseDevice(name string) device {
	parts := strings.SplitN(name, "/", 3)
	switch len(parts) {
	case 1:
		return device{kind: parts[0]}
	case 2:
		return device{vendor: parts[0], kind: parts[1]}
	}
	return device{vendor: parts[0], kind: parts[1], model: parts[2]}
}

// overlaps reports whether some device can be both a and b.
func (a device) overlaps(b device) bool {
	same := func(x, y string) bool { return x == "" || y == "" || x == y }
	return same(a.vendor, b.vendor) && same(a.kind, b.kind) && same(a.model, b.model)
}

// GPUs that are there.

// healthyGPUs is the number of a node's devices of the kind that are healthy.
func healthyGPUs(res *api.NodeResources, gpu device) int {
	n := 0
	for _, d := range devices(res, gpu) {
		for _, inst := range d.Instances {
			if inst != nil && inst.Healthy {
				n++
			}
		}
	}
	return n
}

// devices are a node's device groups of the kind.
func devices(res *api.NodeResources, gpu device) []*api.NodeDeviceResource {
	if res == nil {
		return nil
	}
	var match []*api.NodeDeviceResource
	for _, d := range res.Devices {
		if d != nil && gpu.overlaps(device{d.Vendor, d.Type, d.Name}) {
			match = append(match, d)
		}
	}
	return match
}

// heldGPUs is the number of devices of the kind that an allocation holds.
func heldGPUs(res *api.AllocatedResources, gpu device) int {
	if res == nil {
		return 0
	}
	n := 0
	for _, task := range res.Tasks {
		if task == nil {
			continue
		}
		for _, d := range task.Devices {
			if d != nil && gpu.overlaps(device{d.Vendor, d.Type, d.Name}) {
				n += len(d.DeviceIDs)
			}
		}
	}
	return n
}

// GPUs that are asked for.

// ask is what one allocation of a task group asks for.
type ask struct {
	group string
	// devices are asked for by the group's tasks. Each task gets its own
	// devices for the life of the allocation, so they add up.
	devices []askDevice
	// ignored are the constraints that are not looked at here.
	ignored []string
}

type askDevice struct {
	device
	count       int
	constraints []*api.Constraint
}

// asksOf reads what the groups of a job ask for.
func asksOf(job *api.Job) []ask {
	var asks []ask
	for _, group := range job.TaskGroups {
		if group == nil || group.Name == nil {
			continue
		}
		a := ask{group: *group.Name, ignored: constraints(job.Constraints, group.Constraints)}
		for _, task := range group.Tasks {
			if task == nil {
				continue
			}
			a.ignored = append(a.ignored, constraints(task.Constraints)...)
			if task.Resources == nil {
				continue
			}
			for _, d := range task.Resources.Devices {
				if d == nil {
					continue
				}
				count := 1
				if d.Count != nil {
					count = int(min(*d.Count, 1<<20))
				}
				a.devices = append(a.devices, askDevice{parseDevice(d.Name), count, d.Constraints})
			}
		}
		asks = append(asks, a)
	}
	return asks
}

func constraints(lists ...[]*api.Constraint) []string {
	var all []string
	for _, list := range lists {
		for _, c := range list {
			if c != nil {
				all = append(all, phrase(c))
			}
		}
	}
	return all
}

func phrase(c *api.Constraint) string {
	return strings.Join(strings.Fields(c.LTarget+" "+c.Operand+" "+c.RTarget), " ")
}

// offer is what a host of the pool has, as far as it is known.
type offer struct {
	gpu device
	// models are all models of the pool's hosts; nil if not all are known.
	models []string
	// perHost is the most GPUs of a host; 0 if not known.
	perHost int
}

// offerOf is what the pool's spec and nodes say of its hosts. The nodes tell
// of all hosts only if each host's node is there with its devices: a host
// that never booted may be of another kind.
func offerOf(spec PoolSpec, nodes []*api.NodeListStub) offer {
	o := offer{gpu: parseDevice(spec.Device), perHost: spec.GPUsPerHost}
	if o.gpu.model != "" {
		o.models = []string{o.gpu.model}
	}
	var models []string
	perHost := 0
	missing := make(map[string]bool, len(spec.Nodes))
	for _, name := range spec.Nodes {
		missing[name] = true
	}
	for _, n := range nodes {
		found := devices(n.NodeResources, o.gpu)
		here := 0
		for _, d := range found {
			models = append(models, d.Name)
			here += len(d.Instances)
		}
		perHost = max(perHost, here)
		if len(found) > 0 {
			delete(missing, n.Name)
		}
	}
	if len(spec.Nodes) == 0 || len(missing) > 0 {
		return o
	}
	if o.models == nil {
		slices.Sort(models)
		o.models = slices.Compact(models)
	}
	if o.perHost == 0 {
		o.perHost = perHost
	}
	return o
}

// fits says how many GPUs of the pool one allocation of the group would hold,
// and why a host of the pool cannot have it at all. It asks for no GPU of the
// pool if both are zero.
func (o offer) fits(a ask) (gpus int, why string, ignored []string) {
	ignored = a.ignored
	for _, d := range a.devices {
		if !d.overlaps(device{o.gpu.vendor, o.gpu.kind, ""}) {
			continue
		}
		gpus += d.count
		for _, c := range d.constraints {
			if c != nil && !decidable(c) {
				ignored = append(ignored, phrase(c))
			}
		}
		if !o.hasModel(d) && why == "" {
			why = fmt.Sprintf("asks for %s, and the pool has %s", d.wish(), strings.Join(o.models, ", "))
		}
	}
	if why == "" && o.perHost > 0 && gpus > o.perHost {
		why = fmt.Sprintf("asks for %d GPUs in one allocation, and a host of the pool has %d", gpus, o.perHost)
	}
	return gpus, why, ignored
}

// model is the one model that the group's tasks ask for by name, empty if they
// take any, or several.
func (o offer) model(a ask) string {
	model := ""
	for _, d := range a.devices {
		if !d.overlaps(device{o.gpu.vendor, o.gpu.kind, ""}) {
			continue
		}
		named := d.device.model
		for _, c := range d.constraints {
			if named == "" && c != nil && decidable(c) && c.LTarget == "${device.model}" && equals(c.Operand) {
				named = c.RTarget
			}
		}
		if named == "" || model != "" && model != named {
			return ""
		}
		model = named
	}
	return model
}

// hasModel reports whether the pool has, or may have, a model that the task
// accepts.
func (o offer) hasModel(d askDevice) bool {
	if o.models == nil {
		return true
	}
	return slices.ContainsFunc(o.models, func(model string) bool {
		if d.model != "" && d.model != model {
			return false
		}
		for _, c := range d.constraints {
			if c != nil && decidable(c) && !holds(c, device{o.gpu.vendor, o.gpu.kind, model}) {
				return false
			}
		}
		return true
	})
}

// wish is what the task asks for, in words.
func (d askDevice) wish() string {
	parts := strings.Trim(d.vendor+"/"+d.kind+"/"+d.model, "/")
	for _, c := range d.constraints {
		if c != nil && decidable(c) {
			parts += " with " + phrase(c)
		}
	}
	return parts
}

func equals(operand string) bool {
	return operand == "" || operand == "=" || operand == "==" || operand == "is"
}

// The constraints on a device that are decided here compare its vendor, type
// or model with a text. Its other attributes are known only while a host is
// up, and their comparison has units and versions: those are left to Nomad,
// and said to be ignored.

func decidable(c *api.Constraint) bool {
	switch c.LTarget {
	case "${device.vendor}", "${device.type}", "${device.model}":
	default:
		return false
	}
	switch c.Operand {
	case "", "=", "==", "is", "!=", "not":
		return !strings.HasPrefix(c.RTarget, "${")
	case "regexp":
		_, err := regexp.Compile(c.RTarget)
		return err == nil
	}
	return false
}

func holds(c *api.Constraint, d device) bool {
	value := map[string]string{
		"${device.vendor}": d.vendor,
		"${device.type}":   d.kind,
		"${device.model}":  d.model,
	}[c.LTarget]
	switch c.Operand {
	case "!=", "not":
		return value != c.RTarget
	case "regexp":
		return regexp.MustCompile(c.RTarget).MatchString(value)
	}
	return value == c.RTarget
}
