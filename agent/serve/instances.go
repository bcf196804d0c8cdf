package serve

import (
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gpupool/gpupool/internal/engine"
	"github.com/gpupool/gpupool/internal/fleet"
)

// Instances is what is served of the model servers besides what the snapshot
// has. The zero value serves nothing.
type Instances struct {
	// Flaws are how often each flaw was seen of each instance, by its ID.
	Flaws func() map[string]map[engine.Flaw]uint64
	// Consul is whether the instances are known in Consul, how many calls
	// failed, and how many changes were written. Nil if they are not kept there.
	Consul func() (registered bool, failures, writes uint64)
	// Admin answers POST /v1/instances/..., which change what an instance
	// does. Nil leaves the agent read-only.
	Admin http.Handler
}

// handle adds what changes things, where that is allowed.
func (i Instances) handle(mux *http.ServeMux, token func() string) {
	if i.Admin != nil {
		mux.Handle("POST /v1/instances/", authorized(token, i.Admin))
	}
}

var (
	instancesKnown = Metric{"gpupool_instances_known", prometheus.GaugeValue, nil,
		"1 if Nomad said lately what runs on this host, else 0. Absent where the agent does not look for model servers."}
	instancesRegistered = Metric{"gpupool_instances_consul_registered", prometheus.GaugeValue, nil,
		"1 if Consul knows how the instances are, else 0."}
	instancesErrors = Metric{"gpupool_instances_consul_errors_total", prometheus.CounterValue, nil,
		"Calls to Consul about instances that failed."}
	instancesWrites = Metric{"gpupool_instances_consul_writes_total", prometheus.CounterValue, nil,
		"Changes of instances that were written to Consul."}
	instanceInfo = Metric{"gpupool_instance_info", prometheus.GaugeValue,
		[]string{"instance_id", "namespace", "job", "group", "task", "alloc_id", "engine", "model", "service", "address"},
		"Always 1. Who the instance is."}
	instanceState = Metric{"gpupool_instance_state", prometheus.GaugeValue, []string{"instance_id", "state"},
		"1 for the state that the instance is in, 0 for the others."}
	instanceStateSeconds = Metric{"gpupool_instance_state_seconds", prometheus.GaugeValue, []string{"instance_id"},
		"Time that the instance has been in its state."}
	instanceChanges = Metric{"gpupool_instance_state_changes_total", prometheus.CounterValue, []string{"instance_id"},
		"Changes of the instance's state since the agent first saw it."}
	instanceWarmUp = Metric{"gpupool_instance_warm_up_seconds", prometheus.GaugeValue, []string{"instance_id"},
		"Time that the instance took to become ready. Absent if the agent was not there to see."}
	instanceFlaws = Metric{"gpupool_instance_flaws_total", prometheus.CounterValue, []string{"instance_id", "flaw"},
		"What was wrong with what the instance's server said; docs/reference/model-servers.md has the flaws."}
	warmUpSeconds = Metric{"gpupool_warm_up_seconds", prometheus.GaugeValue, []string{"model", "gpu_name", "from", "quantile"},
		"Time that the last 20 warm-ups of a model took on this host, by quantile."}

	instanceMetrics = append([]Metric{
		instancesKnown, instancesRegistered, instancesErrors, instancesWrites,
		instanceInfo, instanceState, instanceStateSeconds, instanceChanges, instanceWarmUp, instanceFlaws, warmUpSeconds,
	}, loadMetrics()...)
)

// loadMetric is the metric of a signal, and its quantile, empty for a signal
// that is none.
func loadMetric(s fleet.Signal, doc string) (Metric, string) {
	for text, q := range map[string]string{"_p50_": "0.5", "_p95_": "0.95"} {
		if name := strings.Replace(string(s), text, "_", 1); name != string(s) {
			doc, _, _ = strings.Cut(doc, ", ")
			return Metric{"gpupool_instance_" + name, prometheus.GaugeValue, []string{"instance_id", "quantile"}, strings.TrimSuffix(doc, ".") + ", over the last minute."}, q
		}
	}
	return Metric{"gpupool_instance_" + string(s), prometheus.GaugeValue, []string{"instance_id"}, doc}, ""
}

// load is a signal, its metric, and its quantile, empty for a signal that is none.
type load struct {
	signal   fleet.Signal
	metric   Metric
	quantile string
}

var loads = func() (list []load) {
	for _, s := range fleet.Signals {
		m, q := loadMetric(s.Signal, s.Doc)
		list = append(list, load{s.Signal, m, q})
	}
	return list
}()

// loadMetrics has each metric of the signals once.
func loadMetrics() (list []Metric) {
	for _, l := range loads {
		if !slices.ContainsFunc(list, func(o Metric) bool { return o.Name == l.metric.Name }) {
			list = append(list, l.metric)
		}
	}
	return list
}

// collect makes the metrics of the instances.
func (i Instances) collect(list *fleet.Instances, send func(m Metric, value float64, labels ...string)) {
	if list == nil {
		return
	}
	send(instancesKnown, number(list.Known))
	if i.Consul != nil {
		registered, failures, writes := i.Consul()
		send(instancesRegistered, number(registered))
		send(instancesErrors, float64(failures))
		send(instancesWrites, float64(writes))
	}
	for _, w := range list.WarmUps {
		send(warmUpSeconds, w.Median, w.Model, w.GPU, string(w.From), "0.5")
		send(warmUpSeconds, w.P95, w.Model, w.GPU, string(w.From), "0.95")
	}
	var flaws map[string]map[engine.Flaw]uint64
	if i.Flaws != nil {
		flaws = i.Flaws()
	}
	for _, one := range list.List {
		collectInstance(one, flaws[one.ID], send)
	}
}

func collectInstance(i fleet.Instance, flaws map[engine.Flaw]uint64, send func(m Metric, value float64, labels ...string)) {
	send(instanceInfo, 1, i.ID, i.Namespace, i.Job, i.Group, i.Task, i.Alloc, i.Engine, i.Model, i.Service, i.Address)
	for _, state := range fleet.InstanceStates {
		send(instanceState, number(i.State == state), i.ID, string(state))
	}
	send(instanceStateSeconds, i.For, i.ID)
	send(instanceChanges, float64(i.Changes), i.ID)
	if i.WarmUp != nil {
		send(instanceWarmUp, *i.WarmUp, i.ID)
	}
	for _, f := range engine.Flaws {
		if n := flaws[f.Flaw]; n > 0 {
			send(instanceFlaws, float64(n), i.ID, string(f.Flaw))
		}
	}
	for _, l := range loads {
		switch v, known := i.Fresh(l.signal); {
		case !known:
		case l.quantile != "":
			send(l.metric, v, i.ID, l.quantile)
		default:
			send(l.metric, v, i.ID)
		}
	}
}
