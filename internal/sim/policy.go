package sim

import (
	"slices"
	"time"

	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/plan"
)

// Policy decides how many replicas to want. One value serves one run: it may
// keep what it learned between calls, which come in ascending time.
type Policy interface {
	// Name is the policy's name in tables and on the command line.
	Name() string
	// Decide is called once each [Setup.Interval]. The count of the decision
	// is cut to [Setup.Min, Setup.Max]. o and its series are only valid
	// during the call and are not to be written to.
	Decide(now time.Time, o Observation) plan.Decision
}

// Observation is what a control plane really sees of a pool: its own counts
// at once, measurements late ([Setup.Delay]), sampled ([Setup.Sample]) and
// with holes. The service rate is not part of it; Little's law on InService
// and Completions estimates it.
type Observation struct {
	Wanted   int         // the count of the last decision
	Ready    int         // replicas that take work
	Starting []time.Time // when each replica that does not yet take work was started, ascending

	// The series hold all samples since the start of the trace, ascending.
	// A sample that was lost is absent from all of them.
	InService   demand.Series // requests being served, mean since the sample before: busy slots
	Waiting     demand.Series // requests that wait, at the sample
	Arrivals    demand.Series // requests a second, mean since the sample before
	Completions demand.Series // requests a second whose service ended, mean since the sample before
	Utilization demand.Series // busy slots over the slots of ready replicas, 0 to 1; absent with none ready
	ReadyCount  demand.Series // replicas that took work, at the sample
}

// Setup is what an operator tells a policy about the pool, and what the static
// policies may know in hindsight.
type Setup struct {
	Slots    int           // requests that one replica serves at once
	Min, Max int           // replicas
	Lead     time.Duration // from start command to first request served
	Interval time.Duration // between decisions
	Sample   time.Duration // between metric samples
	Delay    time.Duration // from a sample's time to its being visible
	SLOWait  time.Duration // a request is on time if it waited no longer
	SLO      float64       // share of requests that shall be on time
	Start    time.Time     // of the trace

	// Knob is the value of the policy's one parameter that is swept to draw
	// its cost-against-attainment front; see [Spec].
	Knob float64

	// Need is, for each minute of the whole trace, the work that arrives in
	// replicas' worth. It is hindsight: only policies that stand for a person
	// who sized the pool with the traffic known (static, cron) may look, and
	// say so in their Source.
	Need []float64
}

// Spec is one row of the table of policies.
type Spec struct {
	Name   string
	About  string // what it does, in one line
	Source string // the file, page or paper that it follows
	Knob   Knob
	New    func(Setup) Policy
}

// Knob is the one parameter of a policy that trades cost for attainment.
type Knob struct {
	Name    string
	Default float64   // what a user gets without tuning
	Sweep   []float64 // the front's points, in ascending order of expected cost
}

// policies is every policy that the simulator knows, in the order of reports.
// A new one is a file baseline_NAME.go with a constructor, and a row here.
var policies = []Spec{
	{
		Name:   "predictive",
		About:  "the live decision of strategy-predictive",
		Source: "internal/plan",
		Knob:   Knob{"late share", 1, []float64{10, 5, 3, 2, 1.5, 1, 0.7, 0.5, 0.25, 0.1, 0.03}},
		New:    newPredictive,
	},
	{
		Name:   "tracking",
		About:  "load of the last two minutes at a target utilization",
		Source: "Rzadca et al., Autopilot (EuroSys 2020), and the target tracking of all clouds; here with the offered load, uncapped",
		Knob:   Knob{"utilization", 0.85, []float64{1, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5}},
		New:    newTracking(false),
	},
	{
		Name:   "tracking-queue",
		About:  "tracking, and capacity to drain the queue that discounts what is starting",
		Source: "Gandhi et al., AutoScale (ACM TOCS 30(4), 2012): capacity from the number of requests in the system",
		Knob:   Knob{"utilization", 0.95, []float64{1, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5}},
		New:    newTracking(true),
	},
	{
		Name:   "nomad-target-value",
		About:  "Nomad Autoscaler's target-value plugin on the utilization of ready replicas",
		Source: "nomad-autoscaler v0.5.0: plugins/builtin/strategy/target-value (the plugin itself), policy/handler.go, policy/check.go",
		Knob:   Knob{"target", 0.7, []float64{0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5, 0.4, 0.3}},
		New:    newTargetValue("nomad-target-value", utilization),
	},
	{
		Name:   "nomad-target-load",
		About:  "Nomad Autoscaler's target-value plugin on requests a replica",
		Source: "nomad-autoscaler v0.5.0: plugins/builtin/strategy/target-value (the plugin itself), policy/handler.go, policy/check.go",
		Knob:   Knob{"target", 0.7, []float64{0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5, 0.4, 0.3}},
		New:    newTargetValue("nomad-target-load", requestLoad),
	},
	{
		Name:   "nomad-threshold",
		About:  "Nomad Autoscaler's threshold plugin on the utilization of ready replicas",
		Source: "nomad-autoscaler v0.5.0: plugins/builtin/strategy/threshold (the plugin itself), policy/handler.go, policy/check.go",
		Knob:   Knob{"lower_bound", 0.7, []float64{0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5, 0.4, 0.3}},
		New:    newThreshold,
	},
	{
		Name:   "hpa",
		About:  "Kubernetes HorizontalPodAutoscaler v2 on the utilization of ready replicas",
		Source: "kubernetes pkg/controller/podautoscaler: replica_calculator.go, horizontal.go; pkg/apis/autoscaling/v2/defaults.go",
		Knob:   Knob{"target", 0.8, []float64{0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5, 0.4, 0.3}},
		New:    newHPA,
	},
	{
		Name:   "keda",
		About:  "KEDA on the length of the queue, messages in flight included",
		Source: "kedacore/keda v2: pkg/scaling/executor/scale_scaledobjects.go, controllers/keda/hpa.go; the pages of its SQS and RabbitMQ scalers",
		Knob:   Knob{"messages a slot", 1, []float64{1.2, 1.1, 1, 0.9, 0.8, 0.7, 0.6, 0.5}},
		New:    newKEDA,
	},
	{
		Name:   "knative",
		About:  "Knative Pod Autoscaler on concurrency",
		Source: "knative/serving pkg/autoscaler/scaling/autoscaler.go, config/core/configmaps/autoscaler.yaml",
		Knob:   Knob{"target percentage", 0.7, []float64{1, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3}},
		New:    newKnative,
	},
	{
		Name:   "aws-predictive",
		About:  "EC2 Auto Scaling: hourly forecast that never scales in, and target tracking",
		Source: "Amazon EC2 Auto Scaling User Guide: How predictive scaling works, Target tracking scaling policies; API PredictiveScalingConfiguration",
		Knob:   Knob{"target", 0.5, []float64{0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5, 0.4, 0.3}},
		New:    newAWSPredictive,
	},
	{
		Name:   "cron",
		About:  "an hourly schedule written after the first week",
		Source: "hindsight: the need of each hour of the first week; as KEDA's cron scaler and scheduled actions of clouds",
		Knob:   Knob{"headroom", 1.2, []float64{0.6, 0.8, 1, 1.2, 1.5, 2, 2.5}},
		New:    newCron,
	},
	{
		Name:   "static-peak",
		About:  "always enough for the largest minute",
		Source: "hindsight: the largest minute of the trace",
		Knob:   Knob{"share of the peak", 1, []float64{0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1}},
		New:    newStatic("static-peak", 1),
	},
	{
		Name:   "static-p99",
		About:  "always enough for all but one minute in a hundred",
		Source: "hindsight: the 99th percentile of the minutes of the trace",
		Knob:   Knob{"share of the p99", 1, []float64{0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2}},
		New:    newStatic("static-p99", 0.99),
	},
}

// Policies returns every policy that the simulator knows, in the order of
// reports.
func Policies() []Spec { return slices.Clone(policies) }

// Lookup returns the policy of that name.
func Lookup(name string) (Spec, bool) {
	i := slices.IndexFunc(policies, func(s Spec) bool { return s.Name == name })
	if i < 0 {
		return Spec{}, false
	}
	return policies[i], true
}
