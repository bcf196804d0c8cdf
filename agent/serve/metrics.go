package serve

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

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
		"GPUs with compute processes of no Nomad allocation that goes on. Absent if not known for every GPU."}
	outsideProcesses = Metric{"gpupool_outside_processes", prometheus.GaugeValue, nil,
		"Compute processes of no Nomad allocation that goes on. Absent if not known for every GPU."}
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

// exposition answers what is known, from one snapshot a request, in Prometheus'
// text format 0.0.4. It writes that itself: Prometheus' client would make an object
// of each of many hundreds of series, and check again what never changes, the names
// and labels of [Metrics].
type exposition struct {
	cfg    Config
	others *others
}

var textFormat = string(expfmt.NewFormat(expfmt.TypeTextPlain))

func (e exposition) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	p := pages.Get().(*page)
	defer pages.Put(p)
	p.clear()
	e.collect(p.send)
	body := p.write()
	e.others.writeTo(body, time.Now())
	w.Header().Set("Content-Type", textFormat)
	w.Header().Set("Content-Length", strconv.Itoa(body.Len()))
	_, _ = w.Write(body.Bytes()) // the client went away
}

// others is what Prometheus' own collectors say of the Go runtime and of the
// process. They read the counters of the host's network and of its processors for
// it, in about as much time as the rest of a page takes, so a page that is asked
// for every second has it from some seconds ago.
type others struct {
	gatherer prometheus.Gatherer

	mu   sync.Mutex
	text bytes.Buffer
	at   time.Time // of the text
}

const othersFor = 5 * time.Second

func (o *others) writeTo(body *bytes.Buffer, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now.Sub(o.at) >= othersFor {
		o.text.Reset()
		o.at = now
		families, _ := o.gatherer.Gather() // what is not known of the process must not cost the rest
		for _, family := range families {
			_, _ = expfmt.MetricFamilyToText(&o.text, family) // likewise
		}
	}
	body.Write(o.text.Bytes())
}

// page is an exposition in the making. Pages are used again: each has many
// hundreds of series.
type page struct {
	series map[string][]byte   // lines by the name of their metric
	sent   map[uint64]struct{} // the series that are there, by a hash of name and labels
	body   bytes.Buffer
}

var (
	pages = sync.Pool{New: func() any { return &page{series: map[string][]byte{}, sent: map[uint64]struct{}{}} }}
	seed  = maphash.MakeSeed()
	// order is that of the metrics on a page.
	order = func() []Metric {
		all := slices.Clone(Metrics)
		for _, a := range Aliases {
			all = append(all, a.Metric)
		}
		return all
	}()
	// labelValue writes what a label can have in quotes.
	labelValue = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

func (p *page) clear() {
	for name, lines := range p.series {
		p.series[name] = lines[:0]
	}
	clear(p.sent)
	p.body.Reset()
}

// send adds a series. The first of those that are the same stays: two GPUs may
// tell one UUID, and a page with a series twice is not one.
func (p *page) send(m Metric, value float64, labels ...string) {
	before := p.series[m.Name]
	lines := append(before, m.Name...)
	for i, l := range labels {
		separator := byte(',')
		if i == 0 {
			separator = '{'
		}
		lines = append(append(append(lines, separator), m.Labels[i]...), `="`...)
		lines = append(lines, labelValue.Replace(strings.ToValidUTF8(l, "?"))...) // drivers and model servers choose it
		lines = append(lines, '"')
	}
	if len(labels) > 0 {
		lines = append(lines, '}')
	}
	series := maphash.Bytes(seed, lines[len(before):])
	if _, twice := p.sent[series]; twice {
		return
	}
	p.sent[series] = struct{}{}
	lines = strconv.AppendFloat(append(lines, ' '), value, 'g', -1, 64)
	p.series[m.Name] = append(lines, '\n')
}

// write writes the page out, each metric in one piece.
func (p *page) write() *bytes.Buffer {
	for _, m := range order {
		lines := p.series[m.Name]
		if len(lines) == 0 {
			continue
		}
		kind := "gauge"
		if m.Type == prometheus.CounterValue {
			kind = "counter"
		}
		fmt.Fprintf(&p.body, "# HELP %s %s\n# TYPE %s %s\n", m.Name, m.Help, m.Name, kind)
		p.body.Write(lines)
	}
	return &p.body
}

// collect sends the metrics.
func (e exposition) collect(send func(m Metric, value float64, labels ...string)) {
	s := e.cfg.Snapshot()
	send(buildInfo, 1, s.Node, s.Agent.Version, runtime.Version())
	if e.cfg.Consul != nil {
		registered, failures := e.cfg.Consul()
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
	for i := range s.GPUs {
		collectGPU(&gpuView{GPU: &s.GPUs[i], at: s.At}, send)
		if e.cfg.Aliases {
			collectAliases(s, &s.GPUs[i], send)
		}
	}
	e.cfg.Instances.collect(s.Instances, send)
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
