// Package fleet is what the agents say: the [Snapshot] that the agent of one
// host serves, and [Gather], which collects those of many hosts within a
// deadline. The agent and its readers share these types.
//
// Three rules hold for everything in a snapshot. What is not known is absent,
// never zero. Every value carries its age, so that readers depend on no
// clock but their own. Names and units are fixed within a schema number;
// fields may be added to it, so readers pass over the ones that they do not
// know.
package fleet

import (
	"errors"
	"fmt"
	"math"
	"time"
)

const (
	// Schema is the number of this form of [Snapshot].
	Schema = 1
	// Service is the name under which agents register in Consul, with the
	// Nomad node's name as Meta "node".
	Service = "gpupool-agent"
	// SnapshotPath is where an agent serves its snapshot.
	SnapshotPath = "/v1/snapshot"
)

// Bounds on what one host can have. A snapshot beyond them is refused.
const (
	MaxGPUs      = 64 // GPUs in one snapshot
	MaxProcesses = 32 // processes listed for one GPU; Total counts them all
	maxText      = 512
)

// Snapshot is one host at one moment, as its agent sees it.
type Snapshot struct {
	Schema int       `json:"schema"`
	Node   string    `json:"node"` // name of the host's Nomad node
	At     time.Time `json:"at"`   // by the host's clock, for people to read
	Agent  Agent     `json:"agent"`
	Driver Driver    `json:"driver"`
	GPUs   []GPU     `json:"gpus"` // sorted by index
	// Outside is the GPU work that Nomad does not know of.
	Outside Outside `json:"outside"`
	// Instances are the model servers, nil where the agent does not look for
	// them.
	Instances *Instances `json:"instances,omitempty"`
}

// Agent is the agent itself.
type Agent struct {
	Version string  `json:"version"`
	Uptime  float64 `json:"uptime_s"`
}

// DriverState is whether the host's GPU driver can be asked.
type DriverState string

const (
	// DriverStarting is the state before the driver first answered or failed.
	DriverStarting DriverState = "starting"
	// DriverOK means that the driver is initialised. Single GPUs may be lost.
	DriverOK DriverState = "ok"
	// DriverNone means that there is no driver to ask: the library is
	// missing, the kernel module is not loaded, their versions differ, or
	// every GPU is lost. The agent tries again with back-off.
	DriverNone DriverState = "no-gpu"
)

// Driver is the host's GPU driver.
type Driver struct {
	State   DriverState `json:"state"`
	Why     string      `json:"why,omitempty"`  // unless State is DriverOK
	Code    int         `json:"code,omitempty"` // NVML return code behind Why
	Version string      `json:"version,omitempty"`
	// Epoch counts initialisations. The driver's own counters are comparable
	// within one epoch only.
	Epoch int `json:"epoch"`
}

// State is whether one GPU can be used.
type State string

const (
	// StateUnknown is a GPU that has not answered since the agent started.
	StateUnknown State = "unknown"
	// StateOK is a GPU whose last sample is recent.
	StateOK State = "ok"
	// StateStale is a GPU that missed a few samples. It ends by itself.
	StateStale State = "stale"
	// StateUnresponsive is a GPU whose driver calls hang or fail. It ends when
	// a sample succeeds.
	StateUnresponsive State = "unresponsive"
	// StateLost is a GPU that the driver calls lost or in need of a reset, or
	// that it no longer lists. It ends when the driver offers it again, which
	// commonly takes a reset or a power cycle.
	StateLost State = "lost"
)

// States are all states of a GPU.
var States = []State{StateUnknown, StateOK, StateStale, StateUnresponsive, StateLost}

// Usable says whether work can be expected to run on a GPU in this state.
func (s State) Usable() bool { return s == StateOK || s == StateStale }

// GPU is one GPU.
type GPU struct {
	Index int    `json:"index"`          // the driver's number, not stable over a reboot
	UUID  string `json:"uuid,omitempty"` // the GPU's identity; absent until it answered once
	Name  string `json:"name,omitempty"`
	PCI   string `json:"pci,omitempty"` // PCI bus ID
	State State  `json:"state"`
	Why   string `json:"why,omitempty"` // unless State is StateOK
	// Age is the time since the last good sample, in seconds. Absent if there
	// was none.
	Age *float64 `json:"age_s,omitempty"`

	// Health is the agent's verdict on all of the below. Absent from agents
	// that are older than it.
	Health Health `json:"health,omitzero"`

	// Busy is the share of time since the sample before in which at least one
	// kernel ran (where the driver keeps no samples, of its last 1/6 s to 1 s):
	// a flag for "in use", not a measure of load. It does not exist on a GPU
	// in MIG mode.
	Busy     Value    `json:"busy_ratio"`
	BusyOver []Window `json:"busy_over,omitempty"`
	// Activity measures load, where the GPU can.
	Activity Activity `json:"activity,omitzero"`
	SMOver   []Window `json:"sm_over,omitempty"` // of Activity.SM

	MemoryUsed     Value `json:"memory_used_bytes"`
	MemoryReserved Value `json:"memory_reserved_bytes"` // by the driver; not part of used
	MemoryTotal    Value `json:"memory_total_bytes"`
	Power          Value `json:"power_watts"`
	Temperature    Value `json:"temperature_celsius"`

	// PowerOver is from the energy counter where there is one, so that its
	// means are exact.
	PowerOver  []Window `json:"power_over,omitempty"`
	PowerLimit Value    `json:"power_limit_watts,omitzero"` // that the driver enforces
	// Energy is what the GPU used since the driver was loaded, counted on over
	// resets of it: it never goes down while the agent runs.
	Energy            Value    `json:"energy_joules,omitzero"`
	MemoryTemperature Value    `json:"memory_temperature_celsius,omitzero"`
	Clocks            Clocks   `json:"clocks,omitzero"`
	Throttle          Throttle `json:"throttle,omitzero"`
	// Persistence is 1 if the driver keeps the GPU initialised while nobody
	// uses it, else 0.
	Persistence Value `json:"persistence_mode,omitzero"`

	XIDs        XIDs     `json:"xids,omitzero"`
	ECC         ECC      `json:"ecc,omitzero"`
	Rows        Rows     `json:"remapped_rows,omitzero"`
	Pages       Pages    `json:"retired_pages,omitzero"`
	Recovery    Recovery `json:"recovery_action,omitzero"`
	Fabric      Fabric   `json:"fabric,omitzero"`
	NVLink      NVLink   `json:"nvlink,omitzero"`
	PCIeReplays Value    `json:"pcie_replays,omitzero"` // packets sent again since the driver was loaded

	MIG       MIG       `json:"mig,omitzero"`
	Grants    Grants    `json:"grants,omitzero"`
	Processes Processes `json:"processes"`
}

// Quality says what a value is worth.
type Quality string

const (
	// QualityUnknown is a value that has not been read yet.
	QualityUnknown Quality = "unknown"
	// QualityOK is a value read within its sampling period.
	QualityOK Quality = "ok"
	// QualityStale is the last value read; it missed at least two periods.
	QualityStale Quality = "stale"
	// QualityUnsupported is a value that this GPU or driver does not offer.
	QualityUnsupported Quality = "unsupported"
	// QualityFailed is a value that the driver refuses to tell.
	QualityFailed Quality = "failed"
	// QualityLost is a value of a GPU that is lost.
	QualityLost Quality = "lost"
)

// Value is one measurement.
type Value struct {
	Quality Quality `json:"quality"`
	// Value is present when Quality is ok or stale.
	Value *float64 `json:"value,omitempty"`
	Age   float64  `json:"age_s,omitempty"` // seconds since it was read
}

// Fresh is the value if its quality is ok.
func (v Value) Fresh() (float64, bool) {
	if v.Quality != QualityOK || v.Value == nil {
		return 0, false
	}
	return *v.Value, true
}

// Window sums up the last Seconds of a value.
type Window struct {
	Seconds  float64 `json:"seconds"`
	Mean     float64 `json:"mean"`
	Max      float64 `json:"max"`
	Coverage float64 `json:"coverage"` // share of the samples of a full window that are there, 0 to 1
}

// Processes are the compute processes on one GPU.
type Processes struct {
	Quality Quality `json:"quality"`
	Age     float64 `json:"age_s,omitempty"`
	// Total and List are meaningful when Quality is ok or stale.
	Total   int       `json:"total"`
	Outside int       `json:"outside"`        // of Total, those of no allocation, or of one that is over
	List    []Process `json:"list,omitempty"` // those of no allocation first; at most MaxProcesses
}

// Process is one compute process on a GPU.
type Process struct {
	PID    int    `json:"pid"`
	Comm   string `json:"comm,omitempty"`
	Memory *int64 `json:"memory_bytes,omitempty"` // GPU memory, where the driver tells
	Alloc  string `json:"alloc_id,omitempty"`     // Nomad allocation; absent if there is none
	Task   string `json:"task,omitempty"`
	// MIG is the UUID of the MIG device that it runs on, on a divided GPU.
	MIG string `json:"mig_uuid,omitempty"`
	// Foreign is set where the allocation was given other GPUs than this one.
	Foreign bool `json:"foreign,omitempty"`
	// Over is set where Nomad does not list the allocation as one that goes on:
	// the process was left behind, or has yet to end after its job was purged.
	// It counts as outside.
	Over bool `json:"alloc_over,omitempty"`
	// Why is why the owner could not be found out, in which case the process
	// counts as outside.
	Why string `json:"why,omitempty"`
}

// Outside is the GPU work on a host that belongs to no Nomad allocation, or to
// one that is over for Nomad. A host that has any must not be powered off, and
// neither must one of which it is not known.
type Outside struct {
	// Known is set when every GPU's processes were read lately.
	Known bool   `json:"known"`
	Why   string `json:"why,omitempty"` // why it is not known
	// GPUs and Processes count what was seen; at least so many if not Known.
	GPUs      int `json:"gpus"`
	Processes int `json:"processes"`
}

// Usable is the number of GPUs that work can be expected to run on.
func (s Snapshot) Usable() int {
	n := 0
	for _, g := range s.GPUs {
		if g.State.Usable() {
			n++
		}
	}
	return n
}

// check refuses a snapshot that no agent of this schema writes. All that is
// wrong is in the error.
func (s Snapshot) check() error {
	if s.Schema != Schema {
		return fmt.Errorf("schema %d, want %d: agent and reader are of different versions", s.Schema, Schema)
	}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch s.Driver.State {
	case DriverStarting, DriverOK, DriverNone:
	default:
		bad("driver.state %.20q is none that this reader knows", s.Driver.State)
	}
	if len(s.GPUs) > MaxGPUs {
		return fmt.Errorf("%d GPUs, more than %d", len(s.GPUs), MaxGPUs)
	}
	if s.Outside.GPUs < 0 || s.Outside.GPUs > len(s.GPUs) || s.Outside.Processes < s.Outside.GPUs {
		bad("outside: %d processes on %d of %d GPUs", s.Outside.Processes, s.Outside.GPUs, len(s.GPUs))
	}
	uuids := map[string]bool{}
	for i, g := range s.GPUs {
		if err := g.Check(); err != nil {
			bad("gpus[%d]: %w", i, err)
		}
		if g.UUID != "" && uuids[g.UUID] {
			bad("gpus[%d]: UUID %q is there twice", i, g.UUID)
		}
		uuids[g.UUID] = true
	}
	if err := s.Instances.check(); err != nil {
		bad("instances: %w", err)
	}
	return errors.Join(errs...)
}

// Check refuses a GPU that readers of a snapshot would refuse it for. The agent
// asks too, so that one absurd answer of a driver is no more than that.
func (g GPU) Check() error {
	for _, text := range []string{g.UUID, g.Name, g.PCI, g.Why} {
		if len(text) > maxText {
			return fmt.Errorf("a text of %d bytes, more than %d", len(text), maxText)
		}
	}
	if len(g.Processes.List) > MaxProcesses {
		return fmt.Errorf("%d processes listed, more than %d", len(g.Processes.List), MaxProcesses)
	}
	if p := g.Processes; p.Outside < 0 || p.Outside > p.Total {
		return fmt.Errorf("%d of %d processes outside", p.Outside, p.Total)
	}
	for _, v := range []struct {
		name     string
		value    Value
		min, max float64
	}{
		{"busy_ratio", g.Busy, 0, 1},
		{"memory_used_bytes", g.MemoryUsed, 0, math.MaxInt64},
		{"memory_reserved_bytes", g.MemoryReserved, 0, math.MaxInt64},
		{"memory_total_bytes", g.MemoryTotal, 0, math.MaxInt64},
		{"power_watts", g.Power, 0, 1e5},
		{"temperature_celsius", g.Temperature, -273, 1e3},
		{"memory_temperature_celsius", g.MemoryTemperature, -273, 1e3},
		{"power_limit_watts", g.PowerLimit, 0, 1e5},
		{"energy_joules", g.Energy, 0, math.MaxInt64},
		{"persistence_mode", g.Persistence, 0, 1},
		{"pcie_replays", g.PCIeReplays, 0, math.MaxInt64},
	} {
		if err := v.value.check(v.min, v.max); err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
	}
	return g.checkFacts()
}

func (v Value) check(least, most float64) error {
	there := v.Quality == QualityOK || v.Quality == QualityStale
	switch {
	case there != (v.Value != nil):
		return fmt.Errorf("quality %.20q does not go with the value", v.Quality)
	case v.Age < 0:
		return fmt.Errorf("age %g s", v.Age)
	case v.Value != nil && (*v.Value < least || *v.Value > most):
		return fmt.Errorf("value %g, want %g to %g", *v.Value, least, most)
	}
	return nil
}
