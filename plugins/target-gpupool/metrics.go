package main

import (
	"errors"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gpupool/gpupool/internal/control"
	"github.com/gpupool/gpupool/internal/live"
	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/version"
)

// metric describes one metric of the plugin.
type metric struct {
	name   string
	kind   string // gauge, counter or histogram
	labels []string
	help   string
}

// The metrics, in base units. A value that is not known is absent.
var (
	buildInfo = metric{"gpupool_target_build_info", "gauge", []string{"version", "go_version"},
		"Always 1. The version of the plugin."}
	poolWant = metric{"gpupool_pool_want_hosts", "gauge", []string{"pool"},
		"Hosts that are wanted, at most the pool's max."}
	poolHave = metric{"gpupool_pool_have_hosts", "gauge", []string{"pool"},
		"Hosts in service or on their way, as of the last decision."}
	poolHosts = metric{"gpupool_pool_hosts", "gauge", []string{"pool", "phase"},
		"Hosts in each phase, as of the last decision."}
	poolGPUs = metric{"gpupool_pool_gpus", "gauge", []string{"pool", "state"},
		"GPUs of hosts in service: busy are held by jobs of Nomad, free are not."}
	poolReady = metric{"gpupool_pool_scalable", "gauge", []string{"pool"},
		"1 while Status is ready, so that the autoscaler evaluates the pool's policies; else 0."}
	poolLease = metric{"gpupool_pool_lease_held", "gauge", []string{"pool"},
		"1 while this process holds the pool's lease, so that it acts; else 0."}
	poolAge = metric{"gpupool_pool_decision_age_seconds", "gauge", []string{"pool"},
		"Time since the last tick that decided. Grows while Consul or Nomad is away. Only while the lease is held."}
	poolBeat = metric{"gpupool_pool_tick_age_seconds", "gauge", []string{"pool"},
		"Time since the last tick ended, whatever came of it. Grows only if the loop is stuck."}
	poolTicks = metric{"gpupool_pool_ticks_total", "counter", []string{"pool", "result"},
		"Ticks of the process that acts: decided, or failed, where nothing could be decided."}
	poolActions = metric{"gpupool_pool_actions_total", "counter", []string{"pool", "do", "result"},
		"Actions on hosts: done, failed, or unclear, where it may have happened or may still."}
	poolWatts = metric{"gpupool_pool_power_watts", "gauge", []string{"pool", "class"},
		"Estimated draw of the hosts, by watts_boot and watts_run of their class. Absent where those are not said."}
	poolJoules = metric{"gpupool_pool_energy_joules_total", "counter", []string{"pool", "class"},
		"Estimated energy of the hosts while this process acted, likewise."}
	poolTook = metric{"gpupool_pool_stage_seconds", "gauge", []string{"pool", "class", "stage", "quantile"},
		"How long hosts take to boot, to drain and to stop, as was learned: the quantiles 0.5 and 0.95 of the last 64."}
	powerCalls = metric{"gpupool_power_call_seconds", "histogram", []string{"pool", "call", "result"},
		"How long power drivers took: call is state, on, soft or hard; result is ok, unreachable, auth, refused, capacity, unsupported, unclear or error."}
)

// metrics are all metrics of the plugin, but those of the Go runtime (go_*) and
// of the process (process_*).
var metrics = []metric{
	buildInfo, poolWant, poolHave, poolHosts, poolGPUs, poolReady, poolLease, poolAge, poolBeat, poolTicks, poolActions,
	poolWatts, poolJoules, poolTook, powerCalls,
}

// phases are all phases, so that one without hosts is 0 rather than absent.
var phases = []pool.Phase{pool.Unknown, pool.Off, pool.Booting, pool.Ready, pool.Draining, pool.Stopping, pool.Held, pool.Quarantined}

// meter counts what happens, and reads how things stand when it is asked. It
// lives as long as the plugin, so that a reload loses no count.
type meter struct {
	pools  func() map[string]*live.Runner
	descs  map[string]*prometheus.Desc
	calls  *prometheus.HistogramVec
	events *prometheus.CounterVec // ticks
	acts   *prometheus.CounterVec

	mu     sync.Mutex
	joules map[[2]string]float64 // by pool and class, of runners that were replaced
}

func newMeter(pools func() map[string]*live.Runner) *meter {
	counter := func(m metric) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: m.name, Help: m.help}, m.labels)
	}
	m := &meter{
		pools: pools, descs: map[string]*prometheus.Desc{}, events: counter(poolTicks), acts: counter(poolActions),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: powerCalls.name, Help: powerCalls.help,
			Buckets: []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30},
		}, powerCalls.labels),
		joules: map[[2]string]float64{},
	}
	for _, d := range metrics {
		m.descs[d.name] = prometheus.NewDesc(d.name, d.help, d.labels, nil)
	}
	return m
}

// told counts a tick.
func (m *meter) told(name string, r control.Report, err error) {
	if err != nil {
		m.events.WithLabelValues(name, "failed").Inc()
		return
	}
	m.events.WithLabelValues(name, "decided").Inc()
	for _, o := range r.Outcomes {
		m.acts.WithLabelValues(name, o.Do.String(), result(o)).Inc()
	}
}

// result is how an action ended, in a word.
func result(o control.Outcome) string {
	switch {
	case o.Done:
		return "done"
	case live.Ambiguous(o.Err):
		return "unclear"
	}
	return "failed"
}

// timed counts a call of a power driver.
func (m *meter) timed(name, call string, took time.Duration, err error) {
	m.calls.WithLabelValues(name, call, class(err)).Observe(took.Seconds())
}

// class is the class of a power driver's error, in a word.
func class(err error) string {
	if err == nil {
		return "ok"
	}
	for _, c := range []struct {
		err  error
		word string
	}{
		{power.ErrAmbiguous, "unclear"}, // before what it may be wrapped with
		{power.ErrUnreachable, "unreachable"},
		{power.ErrAuth, "auth"},
		{power.ErrRefused, "refused"},
		{power.ErrCapacity, "capacity"},
		{power.ErrUnsupported, "unsupported"},
	} {
		if errors.Is(err, c.err) {
			return c.word
		}
	}
	return "error"
}

// keep remembers what runners counted that are about to be replaced.
func (m *meter) keep(runners map[string]*live.Runner) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, r := range runners {
		for class, j := range r.State().Joules {
			m.joules[[2]string{name, class}] += j
		}
	}
}

// Describe describes all metrics.
func (m *meter) Describe(to chan<- *prometheus.Desc) {
	m.calls.Describe(to)
	m.events.Describe(to)
	m.acts.Describe(to)
	for _, d := range metrics {
		if d.kind == "gauge" || d.name == poolJoules.name {
			to <- m.descs[d.name]
		}
	}
}

// Collect reads all metrics.
func (m *meter) Collect(to chan<- prometheus.Metric) {
	m.calls.Collect(to)
	m.events.Collect(to)
	m.acts.Collect(to)
	send := func(d metric, value float64, labels ...string) {
		kind := prometheus.GaugeValue
		if d.kind == "counter" {
			kind = prometheus.CounterValue
		}
		for i, l := range labels {
			labels[i] = strings.ToValidUTF8(l, "?")
		}
		to <- prometheus.MustNewConstMetric(m.descs[d.name], kind, value, labels...)
	}
	send(buildInfo, 1, version.String(), runtime.Version())
	m.mu.Lock()
	joules := maps.Clone(m.joules)
	m.mu.Unlock()
	runners := m.pools()
	now := time.Now()
	for _, name := range slices.Sorted(maps.Keys(runners)) {
		s := runners[name].State()
		collectPool(name, s, now, send)
		for class, j := range s.Joules {
			joules[[2]string{name, class}] += j
		}
	}
	for id, j := range joules {
		send(poolJoules, j, id[0], id[1])
	}
}

func collectPool(name string, s live.State, now time.Time, send func(metric, float64, ...string)) {
	send(poolWant, float64(s.Want), name)
	send(poolReady, number(s.Ready), name)
	send(poolLease, number(s.Held), name)
	if !s.Beat.IsZero() {
		send(poolBeat, now.Sub(s.Beat).Seconds(), name)
	}
	for class, t := range s.Times {
		for _, stage := range []struct {
			stage pool.Stage
			took  pool.Took
		}{{pool.StageBoot, t.Boot}, {pool.StageDrain, t.Drain}, {pool.StageStop, t.Stop}} {
			if len(stage.took.Last) > 0 {
				send(poolTook, stage.took.Quantile(0.5).Seconds(), name, class, stage.stage.String(), "0.5")
				send(poolTook, stage.took.Quantile(0.95).Seconds(), name, class, stage.stage.String(), "0.95")
			}
		}
	}
	if s.At.IsZero() || !s.Held {
		return // who acts knows better
	}
	send(poolAge, now.Sub(s.At).Seconds(), name)
	send(poolHave, float64(s.Decision.Have), name)
	count := map[pool.Phase]int{}
	watts := map[string]float64{}
	busy, all := 0, 0
	for _, h := range s.Decision.Hosts {
		count[h.Phase]++
		if h.Watts > 0 {
			watts[h.Class] += h.Watts
		}
		if h.Phase == pool.Ready {
			busy, all = busy+h.GPUsBusy, all+h.GPUs
		}
	}
	for _, p := range phases {
		send(poolHosts, float64(count[p]), name, p.String())
	}
	send(poolGPUs, float64(busy), name, "busy")
	send(poolGPUs, float64(max(all-busy, 0)), name, "free")
	for class, w := range watts {
		send(poolWatts, w, name, class)
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
