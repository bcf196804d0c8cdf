package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/gpupool/gpupool/internal/plan"
)

const (
	cronFit      = 7 * 24 * time.Hour
	cronQuantile = 0.95 // of the minutes of an hour
)

// cron is a schedule that somebody wrote after the first week: for each hour of
// the week (of the day, where the trace is shorter than a week) the 95th
// percentile of what the minutes of that hour needed, times the knob. It is
// what Kubernetes users do with KEDA's cron scaler and users of clouds with
// scheduled actions: at each hour a new count, early enough to be ready.
//
// In its favor: the person who wrote it knew in hindsight what each minute of
// the first week needed in replicas, no matter what was served, and runs it
// from the first minute on, so its first week is one that it was fitted on.
type cron struct {
	setup Setup
	hours []int // replicas by hour since the trace's start, going round
}

func newCron(s Setup) Policy {
	fit := s.Need[:min(len(s.Need), int(cronFit/time.Minute))]
	cells := 24
	if len(fit) == int(cronFit/time.Minute) {
		cells = 7 * 24
	}
	minutes := make([][]float64, cells)
	offset := s.Start.Minute() // cells are hours of the clock
	for i, need := range fit {
		h := (offset + i) / 60 % cells
		minutes[h] = append(minutes[h], need)
	}
	c := &cron{setup: s, hours: make([]int, cells)}
	for h, needs := range minutes {
		if len(needs) > 0 {
			slices.Sort(needs)
			c.hours[h] = ceil(needs[int(cronQuantile*float64(len(needs)-1)+0.5)] * s.Knob)
		}
	}
	return c
}

func (c *cron) Name() string { return "cron" }

func (c *cron) Decide(now time.Time, _ Observation) plan.Decision {
	h := c.hour(now)
	n := max(c.hours[h], c.hours[c.hour(now.Add(c.setup.Lead+c.setup.Interval))])
	return plan.Decision{Count: n, Rule: "cron", Reason: fmt.Sprintf("hour %d of the schedule", h)}
}

func (c *cron) hour(t time.Time) int {
	return int(t.Sub(c.setup.Start.Truncate(time.Hour))/time.Hour) % len(c.hours)
}
