package serve

import (
	"fmt"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gpupool/gpupool/internal/fleet"
)

// Alias is a metric under the name, with the labels and in the unit of NVIDIA's
// dcgm-exporter (its etc/default-counters.csv), for dashboards and alerts that
// are there already.
type Alias struct {
	Metric
	Of string // what it is here: a metric of the agent, or in words
	// gpu is the value of a whole GPU, part that of a MIG device; nil for none.
	gpu  func(g *fleet.GPU) (float64, bool)
	part func(d fleet.MIGDevice) (float64, bool)
}

// dcgmLabels are those of dcgm-exporter. It calls the host Hostname up to some
// version, and hostname from there on: both are there. The labels of a MIG
// device are empty for a whole GPU, which to Prometheus is not there.
var dcgmLabels = []string{
	"gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname", "hostname", "DCGM_FI_DRIVER_VERSION", "GPU_I_PROFILE", "GPU_I_ID",
}

const mib = 1 << 20

// Aliases are the metrics that go by dcgm-exporter's names too, if that is
// asked for.
var Aliases = []Alias{
	alias("DCGM_FI_DEV_SM_CLOCK", "Clock of the multiprocessors, MHz.", "gpupool_gpu_sm_clock_hertz",
		func(g *fleet.GPU) (float64, bool) { return times(1e-6)(part(g.Clocks.Read, g.Clocks.SM)) }),
	alias("DCGM_FI_DEV_MEM_CLOCK", "Clock of the memory, MHz.", "gpupool_gpu_memory_clock_hertz",
		func(g *fleet.GPU) (float64, bool) { return times(1e-6)(part(g.Clocks.Read, g.Clocks.Memory)) }),
	alias("DCGM_FI_DEV_GPU_TEMP", "Temperature of the GPU, degrees Celsius.", "gpupool_gpu_temperature_celsius",
		func(g *fleet.GPU) (float64, bool) { return g.Temperature.Fresh() }),
	alias("DCGM_FI_DEV_MEMORY_TEMP", "Temperature of the memory, degrees Celsius.", "gpupool_gpu_memory_temperature_celsius",
		func(g *fleet.GPU) (float64, bool) { return g.MemoryTemperature.Fresh() }),
	alias("DCGM_FI_DEV_POWER_USAGE", "Power that the GPU draws, W.", "gpupool_gpu_power_watts",
		func(g *fleet.GPU) (float64, bool) { return g.Power.Fresh() }),
	counting("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "Energy that the GPU used, mJ.", "gpupool_gpu_energy_joules_total",
		func(g *fleet.GPU) (float64, bool) { return times(1000)(g.Energy.Fresh()) }),
	counting("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "PCIe packets that were sent again.", "gpupool_gpu_pcie_replays_total",
		func(g *fleet.GPU) (float64, bool) { return g.PCIeReplays.Fresh() }),
	alias("DCGM_FI_DEV_GPU_UTIL", "Time in which a kernel ran, percent.", "gpupool_gpu_busy_ratio",
		func(g *fleet.GPU) (float64, bool) { return times(100)(g.Busy.Fresh()) }),
	alias("DCGM_FI_DEV_XID_ERRORS", "The last XID.", "the XID of gpupool_gpu_xid_errors_total that happened last, 0 for none", lastXID),
	alias("DCGM_FI_DEV_FB_USED", "Memory in use, MiB.", "gpupool_gpu_memory_used_bytes, gpupool_mig_memory_used_bytes",
		func(g *fleet.GPU) (float64, bool) { return times(1.0 / mib)(g.MemoryUsed.Fresh()) },
		func(d fleet.MIGDevice) (float64, bool) { return times(1.0 / mib)(d.MemoryUsed.Fresh()) }),
	alias("DCGM_FI_DEV_FB_FREE", "Memory that is free, MiB.", "total less used less reserved memory",
		func(g *fleet.GPU) (float64, bool) { return free(g.MemoryTotal, g.MemoryUsed, g.MemoryReserved) },
		func(d fleet.MIGDevice) (float64, bool) { return free(d.MemoryTotal, d.MemoryUsed, fleet.Value{}) }),
	alias("DCGM_FI_DEV_FB_RESERVED", "Memory that the driver keeps for itself, MiB.", "gpupool_gpu_memory_reserved_bytes",
		func(g *fleet.GPU) (float64, bool) { return times(1.0 / mib)(g.MemoryReserved.Fresh()) }),
	counting("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", "Corrected memory errors since the last reset.", `gpupool_gpu_ecc_errors_total{kind="corrected"}`,
		func(g *fleet.GPU) (float64, bool) { return whole(g.ECC.Read, g.ECC.Corrected) }),
	counting("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "Uncorrected memory errors since the last reset.", `gpupool_gpu_ecc_errors_total{kind="uncorrected"}`,
		func(g *fleet.GPU) (float64, bool) { return whole(g.ECC.Read, g.ECC.Uncorrected) }),
	counting("DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", "Corrected memory errors in the GPU's life.", `gpupool_gpu_ecc_lifetime_errors_total{kind="corrected"}`,
		func(g *fleet.GPU) (float64, bool) { return whole(g.ECC.Read, g.ECC.CorrectedEver) }),
	counting("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", "Uncorrected memory errors in the GPU's life.", `gpupool_gpu_ecc_lifetime_errors_total{kind="uncorrected"}`,
		func(g *fleet.GPU) (float64, bool) { return whole(g.ECC.Read, g.ECC.UncorrectedEver) }),
	counting("DCGM_FI_DEV_RETIRED_SBE", "Memory pages out of use for corrected errors.", `gpupool_gpu_retired_pages_total{kind="corrected"}`,
		func(g *fleet.GPU) (float64, bool) { return whole(g.Pages.Read, g.Pages.SingleBit) }),
	counting("DCGM_FI_DEV_RETIRED_DBE", "Memory pages out of use for uncorrected errors.", `gpupool_gpu_retired_pages_total{kind="uncorrected"}`,
		func(g *fleet.GPU) (float64, bool) { return whole(g.Pages.Read, g.Pages.DoubleBit) }),
	counting("DCGM_FI_DEV_RETIRED_PENDING", "Whether the next reset takes a memory page out of use.", "gpupool_gpu_retired_pages_pending",
		func(g *fleet.GPU) (float64, bool) { return flag(g.Pages.Read, g.Pages.Pending) }),
	counting("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", "Memory rows replaced for uncorrected errors.", `gpupool_gpu_remapped_rows_total{kind="uncorrected"}`,
		func(g *fleet.GPU) (float64, bool) { return whole(g.Rows.Read, &g.Rows.Uncorrected) }),
	counting("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", "Memory rows replaced for corrected errors.", `gpupool_gpu_remapped_rows_total{kind="corrected"}`,
		func(g *fleet.GPU) (float64, bool) { return whole(g.Rows.Read, &g.Rows.Corrected) }),
	alias("DCGM_FI_DEV_ROW_REMAP_FAILURE", "Whether a memory row could not be replaced.", "gpupool_gpu_row_remap_failed",
		func(g *fleet.GPU) (float64, bool) { return flag(g.Rows.Read, g.Rows.Failed) }),
	alias("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "Time in which any compute or graphics engine worked, ratio.", "gpupool_gpu_graphics_active_ratio",
		func(g *fleet.GPU) (float64, bool) { return part(g.Activity.Read, g.Activity.Graphics) },
		func(d fleet.MIGDevice) (float64, bool) { return part(d.Activity.Read, d.Activity.Graphics) }),
	alias("DCGM_FI_PROF_SM_ACTIVE", "Time with a warp on a multiprocessor, ratio.", "gpupool_gpu_sm_active_ratio, gpupool_mig_sm_active_ratio",
		func(g *fleet.GPU) (float64, bool) { return part(g.Activity.Read, g.Activity.SM) },
		func(d fleet.MIGDevice) (float64, bool) { return part(d.Activity.Read, d.Activity.SM) }),
	alias("DCGM_FI_PROF_SM_OCCUPANCY", "Resident warps of those that fit, ratio.", "gpupool_gpu_sm_occupancy_ratio, gpupool_mig_sm_occupancy_ratio",
		func(g *fleet.GPU) (float64, bool) { return part(g.Activity.Read, g.Activity.SMOccupancy) },
		func(d fleet.MIGDevice) (float64, bool) { return part(d.Activity.Read, d.Activity.SMOccupancy) }),
	alias("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "Time in which the tensor cores worked, ratio.", "gpupool_gpu_tensor_active_ratio, gpupool_mig_tensor_active_ratio",
		func(g *fleet.GPU) (float64, bool) { return part(g.Activity.Read, g.Activity.Tensor) },
		func(d fleet.MIGDevice) (float64, bool) { return part(d.Activity.Read, d.Activity.Tensor) }),
	alias("DCGM_FI_PROF_DRAM_ACTIVE", "Memory bandwidth used, ratio.", "gpupool_gpu_dram_active_ratio, gpupool_mig_dram_active_ratio",
		func(g *fleet.GPU) (float64, bool) { return part(g.Activity.Read, g.Activity.DRAM) },
		func(d fleet.MIGDevice) (float64, bool) { return part(d.Activity.Read, d.Activity.DRAM) }),
}

// alias is a gauge; parts is at most one function.
func alias(name, help, of string, gpu func(*fleet.GPU) (float64, bool), parts ...func(fleet.MIGDevice) (float64, bool)) Alias {
	a := Alias{Metric: Metric{name, prometheus.GaugeValue, dcgmLabels, help}, Of: of, gpu: gpu}
	if len(parts) > 0 {
		a.part = parts[0]
	}
	return a
}

// counting is a counter.
func counting(name, help, of string, gpu func(*fleet.GPU) (float64, bool)) Alias {
	a := alias(name, help, of, gpu)
	a.Type = prometheus.CounterValue
	return a
}

// times changes the unit of a value.
func times(factor float64) func(float64, bool) (float64, bool) {
	return func(v float64, ok bool) (float64, bool) { return v * factor, ok }
}

func whole(r fleet.Read, n *int64) (float64, bool) {
	if !r.Fresh() || n == nil {
		return 0, false
	}
	return float64(*n), true
}

// free is the memory that is left, in MiB. Where reserved memory is not told
// apart it is in that used.
func free(total, used, reserved fleet.Value) (float64, bool) {
	t, ok1 := total.Fresh()
	u, ok2 := used.Fresh()
	r, _ := reserved.Fresh()
	return (t - u - r) / mib, ok1 && ok2
}

func lastXID(g *fleet.GPU) (float64, bool) {
	last := fleet.XID{}
	for i, x := range g.XIDs.List {
		if i == 0 || x.Age < last.Age {
			last = x
		}
	}
	return float64(last.Code), g.XIDs.Quality == fleet.QualityOK || len(g.XIDs.List) > 0
}

// collectAliases sends the aliases of one GPU and its parts.
func collectAliases(s fleet.Snapshot, g *fleet.GPU, send func(m Metric, value float64, labels ...string)) {
	labels := func(profile, instance string) []string {
		return []string{strconv.Itoa(g.Index), g.UUID, g.PCI, fmt.Sprintf("nvidia%d", g.Index), g.Name, s.Node, s.Node, s.Driver.Version, profile, instance}
	}
	for _, a := range Aliases {
		if v, ok := a.gpu(g); ok {
			send(a.Metric, v, labels("", "")...)
		}
		if a.part == nil {
			continue
		}
		sent := map[int]bool{} // by GPU instance: to DCGM, what shares one is one
		for _, d := range g.MIG.Devices {
			if v, ok := a.part(d); ok && !sent[d.GPUInstance] {
				send(a.Metric, v, labels(d.Profile, strconv.Itoa(d.GPUInstance))...)
				sent[d.GPUInstance] = true
			}
		}
	}
}
