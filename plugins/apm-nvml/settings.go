package main

import (
	"time"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/pluginconfig"
	"github.com/gpupool/gpupool/internal/reach"
	"github.com/gpupool/gpupool/internal/setting"
)

// settings is the plugin's own configuration.
type settings struct {
	pools, queues      string
	sample, fine, hold time.Duration
	coverage           float64

	consul       consul.Config
	agents       reach.Agents
	agentTimeout time.Duration
	agentsAtOnce int

	history         string // historyConsul, historyPrometheus or historyNone
	prometheus      string
	prometheusQuery string
	prometheusToken string
	listen          string
}

// The values of settings.history.
const (
	historyConsul     = "consul"
	historyPrometheus = "prometheus"
	historyNone       = "none"
)

// defaultQuery reads from Prometheus what this plugin's own metrics put there.
// Two autoscalers may be scraped; one of them samples.
const defaultQuery = "max(avg_over_time(gpupool_$signal{$labels}[1m]))"

func declare(r pluginconfig.Reader) settings {
	s := settings{
		pools:    r.String("pools", "", "Path of the inventory, pools.hcl.", setting.NotEmpty()),
		queues:   r.String("queues", "", "Path of the queues, queues.hcl. Empty: there are none."),
		sample:   r.Duration("sample", 5*time.Second, "Time between readings of Nomad, the agents and the queues.", setting.Between(time.Second, 10*time.Minute)),
		hold:     r.Duration("hold", 2*time.Minute, "How long the last value stands while what it is of cannot be read. After it, queries answer an error.", setting.Between(time.Second, time.Hour)),
		coverage: float64(r.Fraction("coverage", 0.9, "Share of a pool's hosts that are up, or of a job's instances that run, that must be known for a value to be one. Below it the last value stands for `hold`, unless what is seen is more.", setting.Between[setting.Fraction](0.01, 1))),
		fine:     r.Duration("fine", 6*time.Hour, "How far back samples are kept as they were read, in memory, or up to 12 hours farther. What is older is one value a minute, where history is kept.", setting.Between(time.Minute, 7*24*time.Hour)),

		history:         r.OneOf("history", historyConsul, "Where minutes of demand are kept for 28 days, so that an autoscaler that takes over has them at once: consul, or prometheus, which scrapes what is served on `listen`. none: a window begins with the plugin.", historyConsul, historyPrometheus, historyNone),
		prometheus:      r.URL("history_url", "http://127.0.0.1:9090", "With `history = \"prometheus\"`: where its HTTP API is, or that of Thanos, Mimir or VictoriaMetrics."),
		prometheusQuery: r.String("history_query", defaultQuery, "With it: PromQL for the mean of a series in the minute past, as one series. `$signal` stands for the signal's name, `$labels` for its labels.", setting.NotEmpty()),
		listen:          r.Listen(defaultListen, "Where /metrics and /healthz are served, as host:port, or off. They say what demand is and how the sampling goes, and no credential; whoever may connect may read them."),

		agents:       reach.DeclareAgents(r),
		agentTimeout: r.Duration("agent_timeout", 2*time.Second, "How long all agents together get to answer.", setting.Between(100*time.Millisecond, time.Minute)),
		agentsAtOnce: r.Int("agents_at_once", 64, "How many agents are asked at a time.", setting.Between(1, 1024)),

		consul: reach.Consul(r),
	}
	s.prometheusToken = r.Credential("history_token", "Bearer token for `history_url`.")
	return s
}

// defaultListen is beside those of the agent, 9109, and the target, 9110.
const defaultListen = "127.0.0.1:9111"
