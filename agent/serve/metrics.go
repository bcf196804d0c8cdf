package serve

import (
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

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

// gatherer makes the metrics, from one snapshot a scrape. It makes what
// Prometheus' client writes out itself, and not each series as a metric of that
// client, which would check every scrape again what does not change: the names and
// labels of [Metrics].
type gatherer struct {
	cfg    Config
	others prometheus.Gatherer // the Go runtime and the process
}

// Gather makes the metrics of one scrape, sorted by name.
func (g gatherer) Gather() ([]*dto.MetricFamily, error) {
	p := page{families: map[string]*dto.MetricFamily{}, sent: map[string]bool{}}
	g.collect(p.send)
	all, err := g.others.Gather()
	for _, family := range p.families {
		all = append(all, family)
	}
	slices.SortFunc(all, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return all, err
}

// page is the series of one scrape. They are carved from a few large pieces of
// memory: there are many hundreds.
type page struct {
	families map[string]*dto.MetricFamily
	sent     map[string]bool // the series that are there, by name and labels
	metrics  slab[dto.Metric]
	gauges   slab[dto.Gauge]
	counters slab[dto.Counter]
	pairs    slab[dto.LabelPair]
	lists    slab[*dto.LabelPair]
	texts    slab[string]
	numbers  slab[float64]
}

// slab gives out parts of what was allocated at once.
type slab[T any] struct{ left []T }

// take returns n zero values.
func (s *slab[T]) take(n int) []T {
	if len(s.left) < n {
		s.left = make([]T, max(n, 256))
	}
	taken := s.left[:n:n]
	s.left = s.left[n:]
	return taken
}

// send adds a series. The first of those that are the same stays: two GPUs may
// tell one UUID, and a page with a series twice is not one.
func (p *page) send(m Metric, value float64, labels ...string) {
	for i, l := range labels {
		labels[i] = strings.ToValidUTF8(l, "?") // drivers and model servers choose it
	}
	series := m.Name + "\xff" + strings.Join(labels, "\xff") // which no name and no label has
	if p.sent[series] {
		return
	}
	p.sent[series] = true
	family := p.families[m.Name]
	if family == nil {
		name, help, kind := m.Name, m.Help, dto.MetricType_GAUGE
		if m.Type == prometheus.CounterValue {
			kind = dto.MetricType_COUNTER
		}
		family = &dto.MetricFamily{Name: &name, Help: &help, Type: &kind}
		p.families[name] = family
	}
	metric, number := &p.metrics.take(1)[0], &p.numbers.take(1)[0]
	*number = value
	if m.Type == prometheus.CounterValue {
		metric.Counter = &p.counters.take(1)[0]
		metric.Counter.Value = number
	} else {
		metric.Gauge = &p.gauges.take(1)[0]
		metric.Gauge.Value = number
	}
	metric.Label = p.lists.take(len(labels))
	for i, l := range labels {
		text, pair := &p.texts.take(1)[0], &p.pairs.take(1)[0]
		*text = l
		pair.Name, pair.Value = &m.Labels[i], text
		metric.Label[i] = pair
	}
	slices.SortFunc(metric.Label, func(a, b *dto.LabelPair) int { return strings.Compare(*a.Name, *b.Name) })
	family.Metric = append(family.Metric, metric)
}

// collect sends the metrics.
func (g gatherer) collect(send func(m Metric, value float64, labels ...string)) {
	s := g.cfg.Snapshot()
	send(buildInfo, 1, s.Node, s.Agent.Version, runtime.Version())
	if g.cfg.Consul != nil {
		registered, failures := g.cfg.Consul()
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
	for _, one := range s.GPUs {
		view := gpuView{GPU: one, id: one.UUID, at: s.At}
		if view.id == "" {
			view.id = fmt.Sprintf("index:%d", one.Index)
		}
		labels := []string{view.id}
		for _, m := range gpuMetrics {
			m.collect(view, func(value float64, more ...string) {
				labels = append(labels[:1], more...)
				send(m.Metric, value, labels...)
			})
		}
		if g.cfg.Aliases {
			collectAliases(s, one, send)
		}
	}
	g.cfg.Instances.collect(s.Instances, send)
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
