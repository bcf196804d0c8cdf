package signal

import (
	"math"

	"github.com/gpupool/gpupool/internal/fleet"
)

// gpuSignals is what the agents say of each GPU.
var gpuSignals = []Signal{
	// How much it does.
	{Name: "gpu_busy_ratio", Unit: "ratio", Kind: GPUKind, Aggregate: Avg,
		Doc: "Share of the last ten seconds in which at least one kernel ran: says whether a GPU is in use, not how full it is. A divided (MIG) GPU has none.",
		gpu: func(g *fleet.GPU) measured { return recent(g.Busy, g.BusyOver) }},
	{Name: "gpu_sm_ratio", Unit: "ratio", Kind: GPUKind, Aggregate: Avg,
		Doc: "Share of time with work on a multiprocessor, mean of all of them: a measure of load. Hopper and later; of a divided GPU the mean of its parts.",
		gpu: activity(func(a fleet.Activity) *float64 { return a.SM })},
	{Name: "gpu_sm_occupancy_ratio", Unit: "ratio", Kind: GPUKind, Aggregate: Avg,
		Doc: "Share of the warps that fit which were resident. Hopper and later.",
		gpu: activity(func(a fleet.Activity) *float64 { return a.SMOccupancy })},
	{Name: "gpu_tensor_ratio", Unit: "ratio", Kind: GPUKind, Aggregate: Avg,
		Doc: "Share of time in which the tensor cores worked. Hopper and later.",
		gpu: activity(func(a fleet.Activity) *float64 { return a.Tensor })},
	{Name: "gpu_dram_ratio", Unit: "ratio", Kind: GPUKind, Aggregate: Avg,
		Doc: "Share of the memory's bandwidth in use. Hopper and later.",
		gpu: activity(func(a fleet.Activity) *float64 { return a.DRAM })},
	{Name: "gpu_graphics_ratio", Unit: "ratio", Kind: GPUKind, Aggregate: Avg,
		Doc: "Share of time in which any compute or graphics engine worked. Hopper and later.",
		gpu: activity(func(a fleet.Activity) *float64 { return a.Graphics })},
	{Name: "gpu_idle", Unit: "0 or 1", Kind: GPUKind, Aggregate: Sum,
		Doc: "1 where the GPU was not busy in the last ten seconds and no process is on it.",
		gpu: idle},
	{Name: "gpu_processes", Unit: "processes", Kind: GPUKind, Aggregate: Sum,
		Doc: "Compute processes on the GPU.",
		gpu: processes(func(p fleet.Processes) int { return p.Total })},
	{Name: "gpu_outside_processes", Unit: "processes", Kind: GPUKind, Aggregate: Sum,
		Doc: "Those of them that belong to no Nomad allocation.",
		gpu: processes(func(p fleet.Processes) int { return p.Outside })},

	// Memory.
	{Name: "gpu_memory_used_bytes", Unit: "bytes", Kind: GPUKind, Aggregate: Sum,
		Doc: "GPU memory in use, without what the driver reserves.",
		gpu: func(g *fleet.GPU) measured { return value(g.MemoryUsed) }},
	{Name: "gpu_memory_used_ratio", Unit: "ratio", Kind: GPUKind, Aggregate: Avg,
		Doc: "Share of the GPU's memory that is in use.",
		gpu: func(g *fleet.GPU) measured { return share(value(g.MemoryUsed), value(g.MemoryTotal)) }},
	{Name: "gpu_memory_reserved_bytes", Unit: "bytes", Kind: GPUKind, Aggregate: Sum,
		Doc: "GPU memory that the driver reserves.",
		gpu: func(g *fleet.GPU) measured { return value(g.MemoryReserved) }},
	{Name: "gpu_memory_total_bytes", Unit: "bytes", Kind: GPUKind, Aggregate: Sum,
		Doc: "All GPU memory.",
		gpu: func(g *fleet.GPU) measured { return value(g.MemoryTotal) }},

	// Power and heat.
	{Name: "gpu_power_watts", Unit: "watts", Kind: GPUKind, Aggregate: Sum,
		Doc: "Power draw over the last ten seconds.",
		gpu: func(g *fleet.GPU) measured { return recent(g.Power, g.PowerOver) }},
	{Name: "gpu_power_limit_watts", Unit: "watts", Kind: GPUKind, Aggregate: Sum,
		Doc: "Power limit that the driver enforces.",
		gpu: func(g *fleet.GPU) measured { return value(g.PowerLimit) }},
	{Name: "gpu_power_ratio", Unit: "ratio", Kind: GPUKind, Aggregate: Avg,
		Doc: "Power draw over the limit: near 1 is a GPU that does all that it may.",
		gpu: func(g *fleet.GPU) measured { return share(recent(g.Power, g.PowerOver), value(g.PowerLimit)) }},
	{Name: "gpu_energy_joules", Unit: "joules", Kind: GPUKind, Aggregate: Sum,
		Doc: "Energy that the GPU used since the driver was loaded.",
		gpu: func(g *fleet.GPU) measured { return value(g.Energy) }},
	{Name: "gpu_temperature_celsius", Unit: "°C", Kind: GPUKind, Aggregate: Max,
		Doc: "Temperature of the GPU.",
		gpu: func(g *fleet.GPU) measured { return value(g.Temperature) }},
	{Name: "gpu_memory_temperature_celsius", Unit: "°C", Kind: GPUKind, Aggregate: Max,
		Doc: "Temperature of its memory.",
		gpu: func(g *fleet.GPU) measured { return value(g.MemoryTemperature) }},
	{Name: "gpu_sm_hertz", Unit: "hertz", Kind: GPUKind, Aggregate: Avg,
		Doc: "Clock of the multiprocessors.",
		gpu: func(g *fleet.GPU) measured { return number(g.Clocks.Read, g.Clocks.SM) }},
	{Name: "gpu_throttled", Unit: "0 or 1", Kind: GPUKind, Aggregate: Sum,
		Doc: "1 where heat, power or a limit of the hardware slows the GPU down: capacity is missing, and not for want of hosts. A reached power limit does not count.",
		gpu: throttled},

	// Health.
	{Name: "gpu_usable", Unit: "0 or 1", Kind: GPUKind, Aggregate: Sum, counts: true,
		Doc: "1 where work can be expected to run.",
		gpu: func(g *fleet.GPU) measured { return flag(g.State.Usable()) }},
	{Name: "gpu_lost", Unit: "0 or 1", Kind: GPUKind, Aggregate: Sum, counts: true,
		Doc: "1 where the driver lost the GPU.",
		gpu: func(g *fleet.GPU) measured { return flag(g.State == fleet.StateLost) }},
	{Name: "gpu_unresponsive", Unit: "0 or 1", Kind: GPUKind, Aggregate: Sum, counts: true,
		Doc: "1 where calls to the driver hang or fail.",
		gpu: func(g *fleet.GPU) measured { return flag(g.State == fleet.StateUnresponsive) }},
	{Name: "gpu_degraded", Unit: "0 or 1", Kind: GPUKind, Aggregate: Sum, counts: true,
		Doc: "1 where the agent's verdict is that the GPU works, and not as it should.",
		gpu: verdict(fleet.HealthDegraded)},
	{Name: "gpu_failed", Unit: "0 or 1", Kind: GPUKind, Aggregate: Sum, counts: true,
		Doc: "1 where the agent's verdict is that nothing can be expected of the GPU.",
		gpu: verdict(fleet.HealthFailed)},
	{Name: "gpu_xid_errors", Unit: "errors", Kind: GPUKind, Aggregate: Sum,
		Doc: "XIDs since the agent started that ask for a reset, a power cycle or a repair. Faults of programs are not counted.",
		gpu: xids(func(x fleet.XID) int64 { return x.Count })},
	{Name: "gpu_open_xid_errors", Unit: "errors", Kind: GPUKind, Aggregate: Sum,
		Doc: "Kinds of such XIDs that nothing has mended since.",
		gpu: xids(func(x fleet.XID) int64 {
			if x.Open {
				return 1
			}
			return 0
		})},
	{Name: "gpu_ecc_uncorrected", Unit: "errors", Kind: GPUKind, Aggregate: Sum,
		Doc: "Memory errors that could not be corrected, since the driver was loaded.",
		gpu: func(g *fleet.GPU) measured { return number(g.ECC.Read, g.ECC.Uncorrected) }},
	{Name: "gpu_ecc_corrected", Unit: "errors", Kind: GPUKind, Aggregate: Sum,
		Doc: "Memory errors that were corrected, since the driver was loaded.",
		gpu: func(g *fleet.GPU) measured { return number(g.ECC.Read, g.ECC.Corrected) }},
	{Name: "gpu_rows_pending", Unit: "0 or 1", Kind: GPUKind, Aggregate: Sum,
		Doc: "1 where the next reset replaces a memory row.",
		gpu: func(g *fleet.GPU) measured { return fact(g.Rows.Read, flag(g.Rows.Pending)) }},
	{Name: "gpu_rows_failed", Unit: "0 or 1", Kind: GPUKind, Aggregate: Sum,
		Doc: "1 where a memory row could not be replaced.",
		gpu: func(g *fleet.GPU) measured { return fact(g.Rows.Read, flag(g.Rows.Failed)) }},
	{Name: "gpu_needs_recovery", Unit: "0 or 1", Kind: GPUKind, Aggregate: Sum,
		Doc: "1 where the driver says that something must be done before the GPU can work: a reset, a reboot, a drain.",
		gpu: func(g *fleet.GPU) measured {
			return fact(g.Recovery.Read, flag(g.Recovery.Action != "" && g.Recovery.Action != fleet.RecoveryActions[0]))
		}},
	{Name: "gpu_fabric_ready", Unit: "0 or 1", Kind: GPUKind, Aggregate: Sum,
		Doc: "1 where the GPU has joined its NVLink fabric, without which CUDA does not start there. GPUs without a fabric have none.",
		gpu: func(g *fleet.GPU) measured {
			if g.Fabric.Known() && g.Fabric.State == fleet.FabricStates[0] {
				return measured{state: none}
			}
			return fact(g.Fabric.Read, flag(g.Fabric.State == "completed"))
		}},
	{Name: "gpu_nvlinks_down", Unit: "links", Kind: GPUKind, Aggregate: Sum,
		Doc: "NVLinks of the GPU that are not up.",
		gpu: func(g *fleet.GPU) measured { return fact(g.NVLink.Read, count(max(g.NVLink.Links-g.NVLink.Active, 0))) }},
	{Name: "gpu_nvlink_errors", Unit: "errors", Kind: GPUKind, Aggregate: Sum,
		Doc: "Errors of its NVLinks since the driver was loaded.",
		gpu: func(g *fleet.GPU) measured { return number(g.NVLink.Read, g.NVLink.Errors) }},
	{Name: "gpu_pcie_replays", Unit: "packets", Kind: GPUKind, Aggregate: Sum,
		Doc: "PCIe packets that were sent again, since the driver was loaded.",
		gpu: func(g *fleet.GPU) measured { return value(g.PCIeReplays) }},
	{Name: "gpu_mig_devices", Unit: "MIG devices", Kind: GPUKind, Aggregate: Sum,
		Doc: "Parts of divided GPUs; 0 for one that is not divided.",
		gpu: func(g *fleet.GPU) measured { return fact(g.MIG.Read, count(len(g.MIG.Devices))) }},
}

// maxAge is the age, in seconds, from which a value in a snapshot is too old to
// stand for now, whatever quality its agent gives it. Facts that agents read
// once a minute are stale after two.
const maxAge = 180

// value is a value of a snapshot.
func value(v fleet.Value) measured {
	if v.Value == nil {
		return measured{state: absent(v.Quality)}
	}
	return measured{*v.Value, unless(v.Age > maxAge || math.IsNaN(v.Age))}
}

// absent is what the quality of a value that is not there means.
func absent(q fleet.Quality) state {
	switch q {
	case "", fleet.QualityUnsupported, fleet.QualityLost: // "" is an agent that is older than the value
		return none
	}
	return missing
}

// fact is what was read in a group.
func fact(r fleet.Read, m measured) measured {
	switch {
	case !r.Known():
		return measured{state: absent(r.Quality)}
	case r.Age > maxAge:
		return measured{state: missing}
	}
	return m
}

// number is a number of a group that may not be offered.
func number[T int64 | float64](r fleet.Read, v *T) measured {
	if r.Known() && v == nil {
		return measured{state: none}
	}
	if v == nil {
		return fact(r, measured{})
	}
	return fact(r, is(float64(*v)))
}

// recent is the mean over the shortest window that is mostly there, which sees
// what falls between two looks, or else the last value.
func recent(v fleet.Value, over []fleet.Window) measured {
	m := value(v)
	if m.state != there {
		return m
	}
	best := math.Inf(1)
	for _, w := range over {
		if w.Coverage >= 0.5 && w.Seconds < best && w.Mean >= 0 && w.Mean <= math.MaxFloat32 {
			best, m.value = w.Seconds, w.Mean
		}
	}
	return m
}

// share is a over b.
func share(a, b measured) measured {
	switch {
	case a.state == none || b.state == none || b.state == there && b.value <= 0:
		return measured{state: none}
	case a.state == missing || b.state == missing:
		return measured{state: missing}
	}
	return is(a.value / b.value)
}

// activity is a ratio of the whole GPU, or else the mean of its parts that
// have one.
func activity(of func(fleet.Activity) *float64) func(g *fleet.GPU) measured {
	return func(g *fleet.GPU) measured {
		m := number(g.Activity.Read, of(g.Activity))
		if m.state != none || !g.MIG.Enabled {
			return m
		}
		sum, n := 0.0, 0
		seen := map[int]bool{}
		for _, d := range g.MIG.Devices {
			part := number(d.Activity.Read, of(d.Activity))
			switch {
			case part.state == missing:
				return part
			case part.state == there && !seen[d.GPUInstance]:
				sum += part.value
				n++
			}
			seen[d.GPUInstance] = true
		}
		if n == 0 {
			return m
		}
		return is(sum / float64(n))
	}
}

func processes(of func(fleet.Processes) int) func(g *fleet.GPU) measured {
	return func(g *fleet.GPU) measured {
		return fact(fleet.Read{Quality: g.Processes.Quality, Age: g.Processes.Age}, count(of(g.Processes)))
	}
}

// idle is 1 where nothing shows that the GPU is used, and both of what would
// show it are known. Where there is no busy ratio, as on a divided GPU, the
// processes alone decide.
func idle(g *fleet.GPU) measured {
	busy := recent(g.Busy, g.BusyOver)
	procs := processes(func(p fleet.Processes) int { return p.Total })(g)
	switch {
	case busy.state == there && busy.value > 0, procs.state == there && procs.value > 0:
		return is(0)
	case busy.state == missing, procs.state != there:
		return measured{state: missing}
	}
	return is(1)
}

func throttled(g *fleet.GPU) measured {
	slow := false
	for _, name := range g.Throttle.Reasons {
		for _, r := range fleet.ThrottleReasons {
			slow = slow || r.Slow && r.Name == name
		}
	}
	return fact(g.Throttle.Read, flag(slow))
}

func verdict(v fleet.Verdict) func(g *fleet.GPU) measured {
	return func(g *fleet.GPU) measured {
		switch g.Health.Verdict {
		case "":
			return measured{state: none}
		case fleet.HealthUnknown:
			return measured{state: missing}
		}
		return flag(g.Health.Verdict == v)
	}
}

func xids(of func(fleet.XID) int64) func(g *fleet.GPU) measured {
	return func(g *fleet.GPU) measured {
		n := int64(0)
		for _, x := range g.XIDs.List {
			switch x.Class {
			case fleet.XIDReset, fleet.XIDCycle, fleet.XIDReplace, fleet.XIDUnknown:
				n += of(x)
			}
		}
		return fact(fleet.Read{Quality: g.XIDs.Quality}, is(float64(n)))
	}
}
