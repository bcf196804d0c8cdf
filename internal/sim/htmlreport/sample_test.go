package htmlreport

import (
	"math"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/sim"
)

// sample is a made-up week of four policies: two keep the goal.
func sample() *sim.Report {
	r := &sim.Report{
		Trace: sim.TraceInfo{Name: "sample week", Start: sim.DefaultStart, Days: 7, Requests: 7.2e6, MeanPerMin: 714, MaxPerMin: 2400, P999PerMin: 2100},
		World: "fluid", LeadS: 300, Peak: 40, Slots: 8, SLOWaitS: 60, SLO: 0.99, WarmupS: 86400, ServiceS: 7.8, Seed: 1,
		Bound:       sim.Bound{GPUHours: 1600, Attainment: 0.99},
		Assumptions: []string{"Metrics come every 30s, 15s late.", "The bound knows the future."},
		Config: sim.Config{Engine: sim.Fluid, Peak: 40, Slots: 8, Min: 1, Max: 80, Lead: 5 * time.Minute, GPUs: 1, Price: 2, CyclePrice: 0.1,
			Interval: time.Minute, Sample: 30 * time.Second, Delay: 15 * time.Second, Loss: 0.01, IdleWatts: 150, BusyWatts: 650, BootWatts: 250,
			Dispersion: 4, ServiceCV: 0.73},
	}
	add := func(name, about string, hours, onTime, worst, p95, busy float64, cycles int, reserve float64) {
		p := sim.PolicyReport{Name: name, About: about, Knob: "reserve", KnobValue: 1, GPUHours: hours, CostRatio: hours / 1600, Requests: 6.2e6,
			Attainment: onTime, WorstDay: onTime - 0.004, WaitP95S: p95, WaitP99S: 9 * p95, Utilization: busy, PowerCycles: cycles,
			MaxBacklog: 5000 * (1 - onTime) * 100, EnergyKWh: hours * 0.55, Cost: 2*hours + 0.1*float64(cycles),
			Timeline: sampleTimeline(7*24*60, reserve)}
		for k := range 6 {
			f := 0.85 + 0.08*float64(k)
			p.Front = append(p.Front, sim.FrontPoint{Knob: f, GPUHours: hours * f, CostRatio: hours * f / 1600,
				Attainment: 1 - (1-onTime)*math.Pow(10, 2-2*f), WorstDay: 0.9})
		}
		r.Policies = append(r.Policies, p)
	}
	add("static-peak", "always enough for the largest minute", 5760, 1, 1, 0, 0.27, 0, 44)
	add("hpa", "the horizontal pod autoscaler", 1890, 0.9721, 0.95, 12, 0.7, 830, 0.4)
	add("tracking-queue", "tracks utilisation and drains the queue", 2010, 0.9893, 0.981, 6.4, 0.78, 940, 1.2)
	add("predictive", "forecasts, and drains the queue", 2090, 0.9931, 0.988, 4.8, 0.8, 1100, 2)
	r.Policies[3].Forecast = &sim.Forecast{Quantile: 0.9, Pinball: 3.2, Coverage: 0.912, Count: 8640}
	return r
}

// sampleTimeline has a day cycle, a burst on the fifth day, and capacity that
// follows five minutes late with the given reserve of replicas, or, where that
// is 40 or more, stays there.
func sampleTimeline(n int, reserve float64) *sim.Timeline {
	l := &sim.Timeline{StepS: 60}
	need := func(i int) float64 {
		if i < 0 {
			i = 0
		}
		day := float64(i) / 1440
		v := 16 - 10*math.Cos(2*math.Pi*(day-0.12)) + 1.2*math.Sin(float64(i)*1.7) + 0.8*math.Sin(float64(i)*0.37)
		if at := math.Abs(day - 4.55); at < 0.014 {
			v += 18 * (1 - at/0.014)
		}
		return max(v, 0.5)
	}
	queue := 0.0
	for i := range n {
		want := math.Ceil(max(need(i-5), need(i-8), need(i-11)) + reserve)
		if reserve >= 40 {
			want = reserve // holds the peak
		}
		queue = max(queue+(need(i)-want)*60, 0)
		l.Need = append(l.Need, math.Round(need(i)*1000)/1000)
		l.Ready = append(l.Ready, want)
		l.Billed = append(l.Billed, want+max(0, math.Ceil(need(i)-need(i-5))))
		l.Waiting = append(l.Waiting, math.Round(queue))
	}
	return l
}

// hostile is a report whose every text wants to be more.
func hostile() (*sim.Report, string) {
	const script = `</title></style></script><script>window.owned=1</script><img src=x onerror="owned=1">'"&{{.}}`
	r := sample()
	r.Trace.Name = script
	r.World = script
	r.Assumptions = append(r.Assumptions, script, strings.Repeat("unbroken", 80))
	for i := range r.Policies {
		p := &r.Policies[i]
		p.About, p.Knob = script, script
	}
	r.Policies[0].Cost, r.Policies[0].Attainment = 1, 1
	r.Policies[0].Name = script
	r.Policies[1].Name = strings.Repeat("long-name-", 40)
	r.Policies[2].Name = "\xff\xfe not UTF-8 \x00"
	return r, "gpupool simulate --trace '" + script + "'"
}
