// Package serve answers over HTTP what the agent knows. Unless it is told
// otherwise it only reads: no request changes anything, or makes the agent ask
// the driver.
package serve

import (
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/httplimit"
	"github.com/gpupool/gpupool/internal/offswitch"
)

// Config is what a handler needs.
type Config struct {
	// Snapshot is the host as it is now. It must not block.
	Snapshot func() fleet.Snapshot
	// Consul is whether the last heart-beat reached Consul, and how many calls
	// failed. Nil if the agent does not register.
	Consul func() (registered bool, failures uint64)
	// Token is what requests other than GET /healthz must bear now; nil for
	// nothing.
	Token func() string
	// Aliases adds the [Aliases] to the metrics.
	Aliases bool
	// Instances is what is known of the model servers besides the snapshot.
	Instances Instances
	// Off takes orders to shut the host down; nil takes none. They are signed,
	// which is more than a bearer token.
	Off http.Handler
}

// inFlight is how many requests are answered at a time. More are refused.
const inFlight = 64

// Handler answers
//
//	GET /healthz      that the agent runs, whatever its GPUs do
//	GET /v1/snapshot  a [fleet.Snapshot] as JSON
//	GET /metrics      [Metrics] in Prometheus' text format
//	POST /v1/off      package offswitch, if the agent has a key for it
func Handler(cfg Config) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		s := cfg.Snapshot()
		answer(w, struct {
			Status string            `json:"status"`
			Driver fleet.DriverState `json:"driver"`
			Usable int               `json:"usable_gpus"`
		}{"ok", s.Driver.State, s.Usable()})
	})
	mux.Handle("GET "+fleet.SnapshotPath, authorized(cfg.Token, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		answer(w, cfg.Snapshot())
	})))
	cfg.Instances.handle(mux, cfg.Token)
	mux.Handle("GET /metrics", authorized(cfg.Token, exposition{cfg, &others{gatherer: registry}}))
	if cfg.Off != nil {
		mux.Handle("POST "+offswitch.Path, cfg.Off)
	}
	return httplimit.InFlight(inFlight, mux)
}

// Server is an HTTP server whose clients cannot hold it up.
func Server(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
}

// answer writes a value as JSON.
func answer(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil { // a number that JSON does not have; no reading makes one
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	body = append(body, '\n')
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(body) // the client went away
}

// authorized lets requests with the token through.
func authorized(token func() string, next http.Handler) http.Handler {
	if token == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		want := []byte("Bearer " + token())
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), want) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="gpupool agent"`)
			http.Error(w, "this agent wants its bearer token", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}
