// Package sim replays demand through scaling policies in a model of a GPU
// pool, and measures what each would have cost and how late it would have
// been, beside an exact lower bound.
package sim

import (
	"errors"
	"time"
)

// Trace is demand: how many requests arrived in each minute.
type Trace struct {
	Name     string
	Start    time.Time // of the first minute
	Arrivals []float64 // requests in each minute
	Tokens   []Tokens  // per minute, parallel to Arrivals; nil where unknown
}

// Tokens is what the requests of one minute read and wrote, in tokens.
type Tokens struct{ In, Out float64 }

// Config is the world that a policy is tried in. The zero value of each field
// means its default.
type Config struct {
	Peak    float64       // replicas that the p99.9 minute of the trace keeps busy; 40. It sets the service rate
	Slots   int           // requests that a replica serves at once; 8
	Min     int           // fewest replicas; 1
	Max     int           // most replicas; twice Peak
	Lead    time.Duration // from start command to first request served; 5 min
	SLOWait time.Duration // longest wait of a request that is on time; 60 s
	SLO     float64       // share of requests that shall be on time; 0.99
	Warmup  time.Duration // not scored at the start; 24 h, 1 h for traces of a day or less
	Seed    uint64        // of everything random; 1

	Interval time.Duration // between decisions; 1 min
	Sample   time.Duration // between metric samples; 30 s
	Delay    time.Duration // before a sample is visible; 15 s
	Loss     float64       // share of samples that are lost; 0.01
}

// Result is what one policy did in one world.
type Result struct {
	Policy     string
	GPUHours   float64
	Attainment float64
}

// Run replays the trace through the policy.
func Run(cfg Config, t Trace, spec Spec) (Result, error) {
	return Result{}, errors.New("not built yet")
}
