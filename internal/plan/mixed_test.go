package plan_test

import (
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/plan"
)

// Requests of three seconds that run and wait in one series: a few minutes too
// many make a queue of many times the load, and no pool of many times the size.
func TestQueueInTheSeriesIsNotTheLoad(t *testing.T) {
	rules := plan.Rules{Units: 8, Min: 1, Max: 500, Lead: 5 * time.Minute, Interval: time.Minute, Service: 3 * time.Second}
	count, ready, queue := 13, []int{}, 0.0
	var s demand.Series
	p := plan.NewPlanner(rules)
	most := 0
	for k := range 2*perDay + perHour {
		load := 90.0
		if k >= 2*perDay {
			load = 160
		}
		at := now.Add(time.Duration(k) * 30 * time.Second)
		serves := 8.0
		for _, from := range append(make([]int, count-len(ready)), ready...) {
			if from <= k {
				serves += 8
			}
		}
		serves -= 8
		queue = max(0, queue+(load-serves)*10) // 10 services in a step
		s = append(s, demand.Point{At: at, Value: min(load, serves) + queue})
		if queue > 0 {
			s[len(s)-1].Value = serves + queue
		}
		if k%2 == 0 {
			d := p.Decide(plan.Input{Now: at, Count: count, Demand: s})
			for range d.Count - count {
				ready = append(ready, k+10)
			}
			if less := count - d.Count; less > 0 {
				ready = ready[:max(len(ready)-less, 0)]
			}
			count = d.Count
		}
		if k >= 2*perDay {
			most = max(most, count)
		}
	}
	if queue > 0 {
		t.Errorf("%.0f requests still wait", queue)
	}
	// 20 replicas serve the load, and 7000 requests that came in the lead time
	// want some forty more for a minute. Taken for load, they would want 900.
	if most < 20 || most > 200 {
		t.Errorf("up to %d replicas for a load of 20", most)
	}
}
