package serve

import (
	"fmt"
	"runtime"
	"slices"
	"strings"

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
	outsideGPUs = Metric{"gpupool_outside_gpus", prometheus.GaugeValue, nil,
		"GPUs with compute processes of no Nomad allocation. Absent if not known for every GPU."}
	outsideProcesses = Metric{"gpupool_outside_processes", prometheus.GaugeValue, nil,
		"Compute processes of no Nomad allocation. Absent if not known for every GPU."}
)

// Metrics are all metrics of the agent, but those of the Go runtime (go_*) and
// of the process (process_*), and the [Aliases].
var Metrics = func() []Metric {
	all := []Metric{buildInfo, consulRegistered, consulErrors, driverUp, driverInfo, driverEpoch, outsideGPUs, outsideProcesses}
	for _, m := range gpuMetrics {
		all = append(all, m.Metric)
	}
	return append(all, instanceMetrics...)
}()

// collector makes the metrics from one snapshot a scrape.
type collector struct {
	cfg   Config
	descs map[string]*prometheus.Desc
}

func newCollector(cfg Config) *collector {
	c := &collector{cfg, map[string]*prometheus.Desc{}}
	all := slices.Clone(Metrics)
	if cfg.Aliases {
		for _, a := range Aliases {
			all = append(all, a.Metric)
		}
	}
	for _, m := range all {
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
		for i, l := range labels { // which drivers and model servers choose, and which must not end the agent
			labels[i] = strings.ToValidUTF8(l, "?")
		}
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
		view := gpuView{GPU: g, id: g.UUID, at: s.At}
		if view.id == "" {
			view.id = fmt.Sprintf("index:%d", g.Index)
		}
		for _, m := range gpuMetrics {
			m.collect(view, func(value float64, labels ...string) {
				send(m.Metric, value, append([]string{view.id}, labels...)...)
			})
		}
		if c.cfg.Aliases {
			collectAliases(s, g, send)
		}
	}
	c.cfg.Instances.collect(s.Instances, send)
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
