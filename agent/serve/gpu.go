package serve

import (
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gpupool/gpupool/internal/fleet"
)

// gpuView is one GPU of a snapshot.
type gpuView struct {
	*fleet.GPU
	at time.Time // of the snapshot
}

// gpuMetric is a metric of each GPU, and how it is found in a snapshot. Its
// first label is gpu; collect gives the values of the others.
type gpuMetric struct {
	Metric
	collect func(g *gpuView, send func(value float64, labels ...string))
}

// gauge and counter are metrics of one value, which may not be known.
func gauge(name, help string, of func(g *gpuView) (float64, bool)) gpuMetric {
	return single(prometheus.GaugeValue, name, help, of)
}

func counter(name, help string, of func(g *gpuView) (float64, bool)) gpuMetric {
	return single(prometheus.CounterValue, name, help, of)
}

func single(kind prometheus.ValueType, name, help string, of func(g *gpuView) (float64, bool)) gpuMetric {
	return gpuMetric{Metric{name, kind, []string{"gpu"}, help}, func(g *gpuView, send func(float64, ...string)) {
		if v, ok := of(g); ok {
			send(v)
		}
	}}
}

// several is a metric with more labels than gpu.
func several(kind prometheus.ValueType, name string, labels []string, help string, collect func(g *gpuView, send func(value float64, labels ...string))) gpuMetric {
	return gpuMetric{Metric{name, kind, append([]string{"gpu"}, labels...), help}, collect}
}

// part is a number of a group of facts, where it is known and fresh.
func part(r fleet.Read, n *float64) (float64, bool) {
	if !r.Fresh() || n == nil {
		return 0, false
	}
	return *n, true
}

// flag is a yes or no of a group of facts.
func flag(r fleet.Read, b bool) (float64, bool) { return number(b), r.Fresh() }

// kinds sends the counts of errors that could be corrected and those that
// could not.
func kinds(r fleet.Read, corrected, uncorrected *int64, send func(float64, ...string)) {
	if corrected != nil && r.Fresh() {
		send(float64(*corrected), "corrected")
	}
	if uncorrected != nil && r.Fresh() {
		send(float64(*uncorrected), "uncorrected")
	}
}

// words sends 1 for the word that holds and 0 for the others.
func words[T ~string](holds T, all []T, send func(float64, ...string)) {
	for _, w := range all {
		send(number(w == holds), string(w))
	}
}

// gpuMetrics are the metrics of each GPU.
var gpuMetrics = []gpuMetric{
	several(prometheus.GaugeValue, "gpupool_gpu_info", []string{"index", "name", "pci"},
		"Always 1. What the GPU is; gpu is its UUID, or index:N if it never told.",
		func(g *gpuView, send func(float64, ...string)) { send(1, strconv.Itoa(g.Index), g.Name, g.PCI) }),
	several(prometheus.GaugeValue, "gpupool_gpu_state", []string{"state"},
		"1 for the state that the GPU is in, 0 for the others.",
		func(g *gpuView, send func(float64, ...string)) { words(g.State, fleet.States, send) }),
	several(prometheus.GaugeValue, "gpupool_gpu_health", []string{"verdict"},
		"1 for the agent's verdict on the GPU, 0 for the others.",
		func(g *gpuView, send func(float64, ...string)) { words(g.Health.Verdict, fleet.Verdicts, send) }),
	several(prometheus.GaugeValue, "gpupool_gpu_advice", []string{"action"},
		"1 for what would mend the GPU, 0 for the others; all are 0 if nothing is to be done.",
		func(g *gpuView, send func(float64, ...string)) { words(g.Health.Action, fleet.Actions[1:], send) }),
	gauge("gpupool_gpu_sample_age_seconds", "Time since the last good sample.", func(g *gpuView) (float64, bool) {
		if g.Age == nil {
			return 0, false
		}
		return *g.Age, true
	}),

	gauge("gpupool_gpu_busy_ratio", "Share of the time since the sample before in which a kernel ran: a flag for in use, not a measure of load.",
		func(g *gpuView) (float64, bool) { return g.Busy.Fresh() }),
	gauge("gpupool_gpu_sm_active_ratio", "Share of time with a warp on a multiprocessor, mean of all of them. From Hopper on.",
		func(g *gpuView) (float64, bool) { return part(g.Activity.Read, g.Activity.SM) }),
	gauge("gpupool_gpu_sm_occupancy_ratio", "Resident warps of those that fit. From Hopper on.",
		func(g *gpuView) (float64, bool) { return part(g.Activity.Read, g.Activity.SMOccupancy) }),
	gauge("gpupool_gpu_tensor_active_ratio", "Share of time in which the tensor cores worked. From Hopper on.",
		func(g *gpuView) (float64, bool) { return part(g.Activity.Read, g.Activity.Tensor) }),
	gauge("gpupool_gpu_dram_active_ratio", "Share of the memory bandwidth that was used. From Hopper on.",
		func(g *gpuView) (float64, bool) { return part(g.Activity.Read, g.Activity.DRAM) }),
	gauge("gpupool_gpu_graphics_active_ratio", "Share of time in which any compute or graphics engine worked. From Hopper on.",
		func(g *gpuView) (float64, bool) { return part(g.Activity.Read, g.Activity.Graphics) }),

	gauge("gpupool_gpu_memory_used_bytes", "GPU memory in use.", func(g *gpuView) (float64, bool) { return g.MemoryUsed.Fresh() }),
	gauge("gpupool_gpu_memory_reserved_bytes", "GPU memory that the driver keeps for itself.", func(g *gpuView) (float64, bool) { return g.MemoryReserved.Fresh() }),
	gauge("gpupool_gpu_memory_total_bytes", "GPU memory in all.", func(g *gpuView) (float64, bool) { return g.MemoryTotal.Fresh() }),

	gauge("gpupool_gpu_power_watts", "Power that the GPU draws.", func(g *gpuView) (float64, bool) { return g.Power.Fresh() }),
	gauge("gpupool_gpu_power_limit_watts", "Power that the driver lets the GPU draw.", func(g *gpuView) (float64, bool) { return g.PowerLimit.Fresh() }),
	counter("gpupool_gpu_energy_joules_total", "Energy that the GPU used.", func(g *gpuView) (float64, bool) { return g.Energy.Fresh() }),
	gauge("gpupool_gpu_temperature_celsius", "Temperature of the GPU's die.", func(g *gpuView) (float64, bool) { return g.Temperature.Fresh() }),
	gauge("gpupool_gpu_memory_temperature_celsius", "Temperature of the GPU's memory.", func(g *gpuView) (float64, bool) { return g.MemoryTemperature.Fresh() }),
	gauge("gpupool_gpu_sm_clock_hertz", "Clock of the multiprocessors.", func(g *gpuView) (float64, bool) { return part(g.Clocks.Read, g.Clocks.SM) }),
	gauge("gpupool_gpu_memory_clock_hertz", "Clock of the memory.", func(g *gpuView) (float64, bool) { return part(g.Clocks.Read, g.Clocks.Memory) }),
	several(prometheus.CounterValue, "gpupool_gpu_throttled_seconds_total", []string{"reason"},
		"Time in which something kept the clocks down, by reason. A reason has a series once it held.",
		func(g *gpuView, send func(float64, ...string)) {
			for reason, seconds := range g.Throttle.Total {
				send(seconds, reason)
			}
		}),
	gauge("gpupool_gpu_persistence_mode", "1 if the driver keeps the GPU initialised while nobody uses it, else 0.",
		func(g *gpuView) (float64, bool) { return g.Persistence.Fresh() }),

	several(prometheus.CounterValue, "gpupool_gpu_xid_errors_total", []string{"xid", "class"},
		"Errors that the driver reported since the agent started, by NVIDIA's number and what they ask for. An XID has a series once it happened.",
		func(g *gpuView, send func(float64, ...string)) {
			for _, x := range g.XIDs.List {
				send(float64(x.Count), strconv.Itoa(x.Code), string(x.Class))
			}
		}),
	several(prometheus.GaugeValue, "gpupool_gpu_xid_last_timestamp_seconds", []string{"xid"},
		"When an XID happened last, by the host's clock.",
		func(g *gpuView, send func(float64, ...string)) {
			for _, x := range g.XIDs.List {
				send(float64(g.at.UnixMilli())/1000-x.Age, strconv.Itoa(x.Code))
			}
		}),
	several(prometheus.CounterValue, "gpupool_gpu_ecc_errors_total", []string{"kind"},
		"Memory errors since the driver was loaded or the GPU reset; kind is corrected or uncorrected.",
		func(g *gpuView, send func(float64, ...string)) {
			kinds(g.ECC.Read, g.ECC.Corrected, g.ECC.Uncorrected, send)
		}),
	several(prometheus.CounterValue, "gpupool_gpu_ecc_lifetime_errors_total", []string{"kind"},
		"Memory errors in the GPU's life; kind is corrected or uncorrected.",
		func(g *gpuView, send func(float64, ...string)) {
			kinds(g.ECC.Read, g.ECC.CorrectedEver, g.ECC.UncorrectedEver, send)
		}),
	several(prometheus.CounterValue, "gpupool_gpu_remapped_rows_total", []string{"kind"},
		"Memory rows that were replaced, for corrected or uncorrected errors. From Ampere on.",
		func(g *gpuView, send func(float64, ...string)) {
			kinds(g.Rows.Read, &g.Rows.Corrected, &g.Rows.Uncorrected, send)
		}),
	gauge("gpupool_gpu_row_remap_pending", "1 if the next reset replaces a memory row, else 0.",
		func(g *gpuView) (float64, bool) { return flag(g.Rows.Read, g.Rows.Pending) }),
	gauge("gpupool_gpu_row_remap_failed", "1 if a memory row could not be replaced, else 0.",
		func(g *gpuView) (float64, bool) { return flag(g.Rows.Read, g.Rows.Failed) }),
	several(prometheus.CounterValue, "gpupool_gpu_retired_pages_total", []string{"kind"},
		"Memory pages out of use, for corrected or uncorrected errors. Before Ampere.",
		func(g *gpuView, send func(float64, ...string)) {
			kinds(g.Pages.Read, g.Pages.SingleBit, g.Pages.DoubleBit, send)
		}),
	gauge("gpupool_gpu_retired_pages_pending", "1 if the next reset takes a memory page out of use, else 0.",
		func(g *gpuView) (float64, bool) { return flag(g.Pages.Read, g.Pages.Pending) }),
	several(prometheus.GaugeValue, "gpupool_gpu_recovery_action", []string{"action"},
		"Always 1. What the driver says must be done before the GPU can work.",
		func(g *gpuView, send func(float64, ...string)) {
			if g.Recovery.Fresh() {
				send(1, g.Recovery.Action)
			}
		}),
	several(prometheus.GaugeValue, "gpupool_gpu_fabric_state", []string{"state"},
		"1 for how far the GPU is on its way into the NVLink fabric, 0 for the others.",
		func(g *gpuView, send func(float64, ...string)) {
			if g.Fabric.Fresh() {
				words(g.Fabric.State, fleet.FabricStates, send)
			}
		}),
	several(prometheus.GaugeValue, "gpupool_gpu_nvlinks", []string{"state"}, "NVLinks of the GPU; state is active or inactive.",
		func(g *gpuView, send func(float64, ...string)) {
			if g.NVLink.Fresh() {
				send(float64(g.NVLink.Active), "active")
				send(float64(g.NVLink.Links-g.NVLink.Active), "inactive")
			}
		}),
	counter("gpupool_gpu_nvlink_errors_total", "Errors on the GPU's NVLinks since the driver was loaded or the GPU reset.", func(g *gpuView) (float64, bool) {
		if !g.NVLink.Fresh() || g.NVLink.Errors == nil {
			return 0, false
		}
		return float64(*g.NVLink.Errors), true
	}),
	counter("gpupool_gpu_pcie_replays_total", "PCIe packets that were sent again.", func(g *gpuView) (float64, bool) { return g.PCIeReplays.Fresh() }),

	gauge("gpupool_gpu_mig_enabled", "1 if the GPU is divided, else 0.", func(g *gpuView) (float64, bool) { return flag(g.MIG.Read, g.MIG.Enabled) }),
	several(prometheus.GaugeValue, "gpupool_mig_info", []string{"mig", "profile", "gpu_instance", "compute_instance"},
		"Always 1. What a MIG device is; mig is its UUID.",
		func(g *gpuView, send func(float64, ...string)) {
			for _, d := range g.MIG.Devices {
				send(1, d.UUID, d.Profile, strconv.Itoa(d.GPUInstance), strconv.Itoa(d.ComputeInstance))
			}
		}),
	mig("gpupool_mig_memory_used_bytes", "Memory of a MIG device in use.", func(d fleet.MIGDevice) (float64, bool) { return d.MemoryUsed.Fresh() }),
	mig("gpupool_mig_memory_total_bytes", "Memory of a MIG device in all.", func(d fleet.MIGDevice) (float64, bool) { return d.MemoryTotal.Fresh() }),
	mig("gpupool_mig_sm_active_ratio", "As gpupool_gpu_sm_active_ratio, of the MIG device's GPU instance.",
		func(d fleet.MIGDevice) (float64, bool) { return part(d.Activity.Read, d.Activity.SM) }),
	mig("gpupool_mig_sm_occupancy_ratio", "As gpupool_gpu_sm_occupancy_ratio, of the MIG device's GPU instance.",
		func(d fleet.MIGDevice) (float64, bool) { return part(d.Activity.Read, d.Activity.SMOccupancy) }),
	mig("gpupool_mig_tensor_active_ratio", "As gpupool_gpu_tensor_active_ratio, of the MIG device's GPU instance.",
		func(d fleet.MIGDevice) (float64, bool) { return part(d.Activity.Read, d.Activity.Tensor) }),
	mig("gpupool_mig_dram_active_ratio", "As gpupool_gpu_dram_active_ratio, of the MIG device's GPU instance.",
		func(d fleet.MIGDevice) (float64, bool) { return part(d.Activity.Read, d.Activity.DRAM) }),
	several(prometheus.GaugeValue, "gpupool_mig_processes", []string{"mig", "owner"}, "Compute processes on a MIG device; owner is allocation or outside.",
		func(g *gpuView, send func(float64, ...string)) {
			if g.Processes.Quality != fleet.QualityOK {
				return
			}
			for _, d := range g.MIG.Devices {
				send(float64(d.Processes-d.Outside), d.UUID, "allocation")
				send(float64(d.Outside), d.UUID, "outside")
			}
		}),

	several(prometheus.GaugeValue, "gpupool_gpu_processes", []string{"owner"}, "Compute processes on the GPU; owner is allocation or outside.",
		func(g *gpuView, send func(float64, ...string)) {
			if p := g.Processes; p.Quality == fleet.QualityOK {
				send(float64(p.Total-p.Outside), "allocation")
				send(float64(p.Outside), "outside")
			}
		}),
	gauge("gpupool_gpu_foreign_processes", "Compute processes whose allocation was given other GPUs. Absent if not all processes are listed.", func(g *gpuView) (float64, bool) {
		n := 0.0
		for _, p := range g.Processes.List {
			n += number(p.Foreign)
		}
		return n, g.Processes.Quality == fleet.QualityOK && len(g.Processes.List) == g.Processes.Total
	}),
	gauge("gpupool_gpu_leftover_processes", "Compute processes whose allocation has ended, as Nomad says. Absent if not all processes are listed.", func(g *gpuView) (float64, bool) {
		n := 0.0
		for _, p := range g.Processes.List {
			n += number(p.Over)
		}
		return n, g.Grants.Quality == fleet.QualityOK && g.Processes.Quality == fleet.QualityOK && len(g.Processes.List) == g.Processes.Total
	}),
	gauge("gpupool_gpu_granted_tasks", "Tasks that Nomad gave the GPU, or a part of it, to.", func(g *gpuView) (float64, bool) {
		return float64(len(g.Grants.List)), g.Grants.Quality == fleet.QualityOK
	}),
	several(prometheus.GaugeValue, "gpupool_allocation_gpu_memory_bytes", []string{"alloc_id", "task"}, "GPU memory of a Nomad allocation's task.",
		func(g *gpuView, send func(float64, ...string)) {
			if g.Processes.Quality != fleet.QualityOK {
				return
			}
			for owner, bytes := range memoryByTask(g.Processes) {
				send(bytes, owner.alloc, owner.task)
			}
		}),
}

// collectGPU sends the metrics of one GPU.
func collectGPU(g *gpuView, send func(m Metric, value float64, labels ...string)) {
	id := g.UUID
	if id == "" {
		id = fmt.Sprintf("index:%d", g.Index)
	}
	labels := []string{id}
	var metric Metric
	add := func(value float64, more ...string) {
		labels = append(labels[:1], more...)
		send(metric, value, labels...)
	}
	for _, m := range gpuMetrics {
		metric = m.Metric
		m.collect(g, add)
	}
}

// mig is a metric of each MIG device.
func mig(name, help string, of func(d fleet.MIGDevice) (float64, bool)) gpuMetric {
	return several(prometheus.GaugeValue, name, []string{"mig"}, help, func(g *gpuView, send func(float64, ...string)) {
		for _, d := range g.MIG.Devices {
			if v, ok := of(d); ok {
				send(v, d.UUID)
			}
		}
	})
}
