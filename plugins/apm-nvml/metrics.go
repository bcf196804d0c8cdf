package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/signal"
)

// tally counts how the sampling goes.
type tally struct {
	readings, left, saves, queries *prometheus.CounterVec
	answered, silent               prometheus.Gauge
	clocks, strays                 prometheus.Gauge
}

func newTally() *tally {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "gpupool_apm", Name: name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "gpupool_apm", Name: name, Help: help})
	}
	return &tally{
		readings: counter("readings_total", "Readings of a pool, a queue, a job, or the list of agents.", "of", "result"),
		left:     counter("left_out_total", "Things that could not be read and were left out.", "what"),
		saves:    counter("history_writes_total", "Writes of history, each a day of a series.", "result"),
		queries:  counter("queries_total", "Queries of the autoscaler.", "result"),
		answered: gauge("agents_answered", "Agents that answered in the last round."),
		silent:   gauge("agents_silent", "Agents that did not answer in the last round, or not with a snapshot."),
		strays:   gauge("stray_entries", "Entries of the agents' service in Consul that can be no agent and are left out."),
		clocks:   gauge("clocks_off", "Hosts whose clock is off by more than five minutes."),
	}
}

func result(err error) string {
	if err != nil {
		return "failed"
	}
	return "ok"
}

func (t *tally) read(of string, err error) { t.readings.WithLabelValues(of, result(err)).Inc() }
func (t *tally) saved(err error)           { t.saves.WithLabelValues(result(err)).Inc() }
func (t *tally) asked(err error)           { t.queries.WithLabelValues(result(err)).Inc() }
func (t *tally) leftOut(what string)       { t.left.WithLabelValues(what).Inc() }
func (t *tally) offClocks(n int)           { t.clocks.Set(float64(n)) }

func (t *tally) agents(readings map[string]fleet.Reading) {
	silent := 0
	for _, r := range readings {
		if r.Err != nil {
			silent++
			t.leftOut("snapshot")
		}
	}
	t.silent.Set(float64(silent))
	t.answered.Set(float64(len(readings) - silent))
}

// exposition is what is served: the tally, and the newest value of each series
// that is demand, under the name of its signal. A value that is too old to
// stand is absent.
type exposition struct {
	*tally
	book *book
	hold time.Duration
}

// Describe sends nothing: which series there are changes.
func (e exposition) Describe(chan<- *prometheus.Desc) {}

// Collect sends all.
func (e exposition) Collect(out chan<- prometheus.Metric) {
	for _, c := range []prometheus.Collector{e.readings, e.left, e.saves, e.queries, e.answered, e.silent, e.clocks, e.strays} {
		c.Collect(out)
	}
	now := time.Now()
	for _, s := range e.book.all() {
		if s.query.Record() == "" {
			continue
		}
		s.mu.Lock()
		last, ok := s.fine.Last()
		s.mu.Unlock()
		if !ok || now.Sub(last.At) > e.hold {
			continue
		}
		name, names, values := exported(s.query)
		help := "A query whose history is kept."
		if of, plain := signal.Find(name); plain {
			help = strings.ReplaceAll(of.Doc, "`", "")
		}
		desc := prometheus.NewDesc("gpupool_"+name, help, names, nil)
		m, err := prometheus.NewConstMetric(desc, prometheus.GaugeValue, last.Value, values...)
		if err != nil {
			m = prometheus.NewInvalidMetric(desc, err)
		}
		out <- m
	}
}

// exported is the name and the labels of a series in Prometheus. There, job is
// the name of what scrapes.
func exported(q signal.Query) (name string, names, values []string) {
	name, labels := q.Metric()
	for _, l := range labels {
		if l.Name == "job" {
			l.Name = "nomad_job"
		}
		names, values = append(names, l.Name), append(values, strings.ToValidUTF8(l.Value, "?"))
	}
	return name, names, values
}

// promQL is the query to Prometheus for the history of a series.
func promQL(template string, q signal.Query) string {
	name, names, values := exported(q)
	parts := make([]string, len(names))
	for i, name := range names {
		parts[i] = fmt.Sprintf("%s=%q", name, values[i])
	}
	return strings.NewReplacer("$signal", name, "$labels", strings.Join(parts, ",")).Replace(template)
}

// handler answers
//
//	GET /healthz  that the plugin runs
//	GET /metrics  the newest value of each series, and how the sampling goes
func (e exposition) handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(e)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 5 * time.Second}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	return mux
}
