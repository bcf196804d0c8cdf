// Package enginetest is a small model server for tests and demonstrations: it
// has no model, but the endpoints and the metrics of vLLM, slots that requests
// wait for, sleep, and times that a GPU would take.
package enginetest

import (
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config says what server to be. The zero value works.
type Config struct {
	Model  string        // "fake/model" if empty
	Slots  int           // requests worked on at a time; 4 if zero
	First  time.Duration // to the first token of a request
	Token  time.Duration // to each one after it
	Wake   time.Duration // that waking takes
	Sleeps bool          // as with --enable-sleep-mode and VLLM_SERVER_DEV_MODE
}

// Server is a model server. It is an http.Handler.
type Server struct {
	cfg   Config
	mux   *http.ServeMux
	slots chan struct{}

	mu      sync.Mutex
	dead    bool
	asleep  bool
	waiting int
	running int

	ttft, itl, queue, latency prometheus.Observer
	finished                  *prometheus.CounterVec
}

// New makes a server whose model is loaded.
func New(cfg Config) *Server {
	if cfg.Model == "" {
		cfg.Model = "fake/model"
	}
	if cfg.Slots <= 0 {
		cfg.Slots = 4
	}
	s := &Server{cfg: cfg, mux: http.NewServeMux(), slots: make(chan struct{}, cfg.Slots)}
	s.mux.HandleFunc("GET /health", s.health)
	s.mux.HandleFunc("GET /v1/models", s.models)
	s.mux.HandleFunc("POST /v1/completions", s.completions)
	s.mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics(), promhttp.HandlerOpts{}))
	if cfg.Sleeps {
		s.mux.HandleFunc("POST /sleep", s.sleep)
		s.mux.HandleFunc("POST /wake_up", s.wake)
		s.mux.HandleFunc("GET /is_sleeping", func(w http.ResponseWriter, _ *http.Request) {
			answer(w, map[string]bool{"is_sleeping": s.Asleep()})
		})
	}
	return s
}

// ServeHTTP answers as vLLM does.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Kill makes the engine behind the server die: it fails its health check from
// then on.
func (s *Server) Kill() { s.set(func() { s.dead = true }) }

// Asleep says whether the server sleeps.
func (s *Server) Asleep() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asleep
}

func (s *Server) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// read gives one of the server's numbers to a gauge.
func (s *Server) read(f func() int) func() float64 {
	return func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return float64(f())
	}
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

func (s *Server) models(w http.ResponseWriter, _ *http.Request) {
	answer(w, map[string]any{"object": "list", "data": []any{map[string]string{"id": s.cfg.Model, "object": "model"}}})
}

// sleep and wake take a moment, as moving weights does.
func (s *Server) sleep(http.ResponseWriter, *http.Request) { s.set(func() { s.asleep = true }) }

func (s *Server) wake(http.ResponseWriter, *http.Request) {
	time.Sleep(s.cfg.Wake)
	s.set(func() { s.asleep = false })
}

// completions takes a slot and the time of as many tokens as are asked for.
func (s *Server) completions(w http.ResponseWriter, r *http.Request) {
	var request struct {
		MaxTokens int `json:"max_tokens"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	unable := s.dead || s.asleep
	s.mu.Unlock()
	if unable {
		http.Error(w, "the engine is not there", http.StatusServiceUnavailable)
		return
	}
	began := time.Now()
	if !s.takeSlot(r) {
		return // the client went away
	}
	defer func() {
		<-s.slots
		s.set(func() { s.running-- })
	}()
	s.queue.Observe(time.Since(began).Seconds())
	tokens := min(max(request.MaxTokens, 1), 10_000)
	if !pause(r, s.cfg.First) {
		return
	}
	s.ttft.Observe(time.Since(began).Seconds())
	if !pause(r, time.Duration(tokens-1)*s.cfg.Token) {
		return
	}
	s.itl.Observe(s.cfg.Token.Seconds())
	s.latency.Observe(time.Since(began).Seconds())
	s.finished.WithLabelValues(s.cfg.Model, "0", "length").Inc()
	answer(w, map[string]any{"object": "text_completion", "model": s.cfg.Model, "choices": []any{map[string]string{"text": "word"}},
		"usage": map[string]int{"completion_tokens": tokens}})
}

// takeSlot waits for a slot.
func (s *Server) takeSlot(r *http.Request) bool {
	select {
	case s.slots <- struct{}{}:
		s.set(func() { s.running++ })
		return true
	default:
	}
	s.set(func() { s.waiting++ })
	defer s.set(func() { s.waiting-- })
	select {
	case s.slots <- struct{}{}:
		s.set(func() { s.running++ })
		return true
	case <-r.Context().Done():
		return false
	}
}

func pause(r *http.Request, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-r.Context().Done():
		return false
	}
}

// metrics are those of vLLM that matter, by their names of 2025.
func (s *Server) metrics() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	labels := prometheus.Labels{"model_name": s.cfg.Model, "engine": "0"}
	gauge := func(name string, extra prometheus.Labels, f func() int) {
		all := prometheus.Labels{}
		for _, l := range []prometheus.Labels{labels, extra} {
			for k, v := range l {
				all[k] = v
			}
		}
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: name, ConstLabels: all}, s.read(f)))
	}
	gauge("vllm:num_requests_waiting", nil, func() int { return s.waiting })
	gauge("vllm:num_requests_running", nil, func() int { return s.running })
	number := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	gauge("vllm:engine_sleep_state", prometheus.Labels{"sleep_state": "awake"}, func() int { return number(!s.asleep) })
	gauge("vllm:engine_sleep_state", prometheus.Labels{"sleep_state": "weights_offloaded"}, func() int { return number(s.asleep) })
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "vllm:kv_cache_usage_perc", Help: "KV cache in use.", ConstLabels: labels},
		func() float64 { return s.read(func() int { return s.running })() / float64(s.cfg.Slots) * 0.8 }))
	registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "vllm:num_preemptions_total", Help: "Preemptions.", ConstLabels: labels}, func() float64 { return 0 }))
	s.finished = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vllm:request_success_total", Help: "Requests that ended."}, []string{"model_name", "engine", "finished_reason"})
	registry.MustRegister(s.finished)
	histogram := func(name string) prometheus.Observer {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: name, ConstLabels: labels, Buckets: []float64{0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}})
		registry.MustRegister(h)
		return h
	}
	s.ttft = histogram("vllm:time_to_first_token_seconds")
	s.itl = histogram("vllm:inter_token_latency_seconds")
	s.queue = histogram("vllm:request_queue_time_seconds")
	s.latency = histogram("vllm:e2e_request_latency_seconds")
	return registry
}

func answer(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // the client went away
}
