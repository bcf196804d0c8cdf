package serve

import (
	"fmt"
	"runtime"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gpupool/gpupool/internal/fleet"
)

// Metric describes one metric of the agent.
type Metric struct {
	Name   string
	Type   prometheus.ValueType
	Labels []string
	Help   string
}

// The metrics, in base units. A value that is not known is absent.
var (
	buildInfo = Metric{"gpupool_agent_build_info", prometheus.GaugeValue, []string{"node", "version", "go_version"},
		"Always 1. The Nomad node and the version of the agent."}
	consulRegistered = Metric{"gpupool_agent_consul_registered", prometheus.GaugeValue, nil,
		"1 if the last heart-beat reached Consul, else 0."}
	consulErrors = Metric{"gpupool_agent_consul_errors_total", prometheus.CounterValue, nil,
		"Calls to Consul that failed."}
	driverUp = Metric{"gpupool_driver_up", prometheus.GaugeValue, nil,
		"1 if the GPU driver is initialised, else 0."}
	driverInfo = Metric{"gpupool_driver_info", prometheus.GaugeValue, []string{"version"},
		"Always 1. The version of the kernel driver."}
	driverEpoch = Metric{"gpupool_driver_epoch", prometheus.GaugeValue, nil,
		"Initialisations of the driver since the agent started."}
	gpuInfo = Metric{"gpupool_gpu_info", prometheus.GaugeValue, []string{"gpu", "index", "name", "pci"},
		"Always 1. What the GPU is; gpu is its UUID, or index:N if it never told."}
	gpuState = Metric{"gpupool_gpu_state", prometheus.GaugeValue, []string{"gpu", "state"},
		"1 for the state that the GPU is in, 0 for the others."}
	gpuAge = Metric{"gpupool_gpu_sample_age_seconds", prometheus.GaugeValue, []string{"gpu"},
		"Time since the last good sample."}
	gpuBusy = Metric{"gpupool_gpu_busy_ratio", prometheus.GaugeValue, []string{"gpu"},
		"Share of the driver's last sampling window in which a kernel ran: a flag for in use, not a measure of load."}
	gpuMemoryUsed = Metric{"gpupool_gpu_memory_used_bytes", prometheus.GaugeValue, []string{"gpu"},
		"GPU memory in use."}
	gpuMemoryReserved = Metric{"gpupool_gpu_memory_reserved_bytes", prometheus.GaugeValue, []string{"gpu"},
		"GPU memory that the driver keeps for itself."}
	gpuMemoryTotal = Metric{"gpupool_gpu_memory_total_bytes", prometheus.GaugeValue, []string{"gpu"},
		"GPU memory in all."}
	gpuPower = Metric{"gpupool_gpu_power_watts", prometheus.GaugeValue, []string{"gpu"},
		"Power that the GPU draws."}
	gpuTemperature = Metric{"gpupool_gpu_temperature_celsius", prometheus.GaugeValue, []string{"gpu"},
		"Temperature of the GPU's die."}
	gpuProcesses = Metric{"gpupool_gpu_processes", prometheus.GaugeValue, []string{"gpu", "owner"},
		"Compute processes on the GPU; owner is allocation or outside."}
	allocMemory = Metric{"gpupool_allocation_gpu_memory_bytes", prometheus.GaugeValue, []string{"gpu", "alloc_id", "task"},
		"GPU memory of a Nomad allocation's task."}
	outsideGPUs = Metric{"gpupool_outside_gpus", prometheus.GaugeValue, nil,
		"GPUs with compute processes of no Nomad allocation. Absent if not known for every GPU."}
	outsideProcesses = Metric{"gpupool_outside_processes", prometheus.GaugeValue, nil,
		"Compute processes of no Nomad allocation. Absent if not known for every GPU."}
)

// Metrics are all metrics of the agent, but those of the Go runtime (go_*) and
// of the process (process_*).
var Metrics = append([]Metric{
	buildInfo, consulRegistered, consulErrors, driverUp, driverInfo, driverEpoch,
	gpuInfo, gpuState, gpuAge, gpuBusy, gpuMemoryUsed, gpuMemoryReserved, gpuMemoryTotal, gpuPower, gpuTemperature,
	gpuProcesses, allocMemory, outsideGPUs, outsideProcesses,
}, instanceMetrics...)

// collector makes the metrics from one snapshot a scrape.
type collector struct {
	cfg   Config
	descs map[string]*prometheus.Desc
}

func newCollector(cfg Config) *collector {
	c := &collector{cfg, map[string]*prometheus.Desc{}}
	for _, m := range Metrics {
		c.descs[m.Name] = prometheus.NewDesc(m.Name, m.Help, m.Labels, nil)
	}
	return c
}

func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		to <- d
	}
}

func (c *collector) Collect(to chan<- prometheus.Metric) {
	send := func(m Metric, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(c.descs[m.Name], m.Type, value, labels...)
	}
	s := c.cfg.Snapshot()
	send(buildInfo, 1, s.Node, s.Agent.Version, runtime.Version())
	if c.cfg.Consul != nil {
		registered, failures := c.cfg.Consul()
		send(consulRegistered, number(registered))
		send(consulErrors, float64(failures))
	}
	send(driverUp, number(s.Driver.State == fleet.DriverOK))
	send(driverEpoch, float64(s.Driver.Epoch))
	if s.Driver.Version != "" {
		send(driverInfo, 1, s.Driver.Version)
	}
	if s.Outside.Known {
		send(outsideGPUs, float64(s.Outside.GPUs))
		send(outsideProcesses, float64(s.Outside.Processes))
	}
	for _, g := range s.GPUs {
		collectGPU(g, send)
	}
	c.cfg.Instances.collect(s.Instances, send)
}

func collectGPU(g fleet.GPU, send func(m Metric, value float64, labels ...string)) {
	id := g.UUID
	if id == "" {
		id = fmt.Sprintf("index:%d", g.Index)
	}
	send(gpuInfo, 1, id, strconv.Itoa(g.Index), g.Name, g.PCI)
	for _, state := range fleet.States {
		send(gpuState, number(g.State == state), id, string(state))
	}
	if g.Age != nil {
		send(gpuAge, *g.Age, id)
	}
	for _, v := range []struct {
		metric Metric
		value  fleet.Value
	}{
		{gpuBusy, g.Busy},
		{gpuMemoryUsed, g.MemoryUsed},
		{gpuMemoryReserved, g.MemoryReserved},
		{gpuMemoryTotal, g.MemoryTotal},
		{gpuPower, g.Power},
		{gpuTemperature, g.Temperature},
	} {
		if value, ok := v.value.Fresh(); ok {
			send(v.metric, value, id)
		}
	}
	p := g.Processes
	if p.Quality != fleet.QualityOK {
		return
	}
	send(gpuProcesses, float64(p.Total-p.Outside), id, "allocation")
	send(gpuProcesses, float64(p.Outside), id, "outside")
	for owner, bytes := range memoryByTask(p) {
		send(allocMemory, bytes, id, owner.alloc, owner.task)
	}
}

type taskID struct{ alloc, task string }

// memoryByTask sums up the memory of each task's processes. A task is left
// out if that of any of them is not known, and all are if not all processes
// are listed.
func memoryByTask(p fleet.Processes) map[taskID]float64 {
	sums := map[taskID]float64{}
	unknown := map[taskID]bool{}
	if len(p.List) < p.Total {
		return nil
	}
	for _, q := range p.List {
		id := taskID{q.Alloc, q.Task}
		switch {
		case q.Alloc == "":
		case q.Memory == nil:
			unknown[id] = true
		default:
			sums[id] += float64(*q.Memory)
		}
	}
	for id := range unknown {
		delete(sums, id)
	}
	return sums
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
