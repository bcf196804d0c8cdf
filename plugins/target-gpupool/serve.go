package main

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/gpupool/gpupool/internal/httplimit"
	"github.com/gpupool/gpupool/internal/live"
)

// stuckAfter is how old the last tick of a loop may be before the plugin
// calls itself unhealthy. A tick is bounded by the timeouts of its requests.
const stuckAfter = 5 * time.Minute

const inFlight = 16 // requests answered at a time; more are refused

// handler answers
//
//	GET /healthz  whether the loops run, whatever Consul, Nomad and hosts do
//	GET /metrics  [metrics] in Prometheus' text format
func handler(m *meter) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: 4, Timeout: 5 * time.Second, ErrorHandling: promhttp.ContinueOnError,
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		h, ok := health(m.pools(), time.Now())
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if !ok {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(h) // the client went away
	})
	return httplimit.InFlight(inFlight, mux)
}

// healthz is the answer of /healthz.
type healthz struct {
	Status string                `json:"status"` // ok or stuck
	Pools  map[string]poolHealth `json:"pools"`
}

type poolHealth struct {
	Acts     bool    `json:"acts"`       // this process holds the pool's lease
	Scalable bool    `json:"scalable"`   // Status is ready
	Why      string  `json:"why"`        // why it is not, or decides nothing at the moment
	TickAge  float64 `json:"tick_age_s"` // since the last tick ended; -1 before the first
}

// health tells whether each loop runs. That a server is away is no illness of
// the plugin: a restart would not help.
func health(runners map[string]*live.Runner, now time.Time) (healthz, bool) {
	h := healthz{Status: "ok", Pools: make(map[string]poolHealth, len(runners))}
	for name, r := range runners {
		s := r.State()
		p := poolHealth{Acts: s.Held, Scalable: s.Ready, Why: s.Why, TickAge: -1}
		if !s.Beat.IsZero() {
			p.TickAge = now.Sub(s.Beat).Seconds()
			if now.Sub(s.Beat) > stuckAfter+r.Poll() {
				h.Status = "stuck"
			}
		}
		h.Pools[name] = p
	}
	return h, h.Status == "ok"
}
