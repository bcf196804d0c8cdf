package main

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/advise"
	"github.com/gpupool/gpupool/internal/promrange"
)

// held is the tasks on each GPU, as series of task and gpu. Several agents may
// have had one GPU, and several processes are one task.
const held = `max by (task, gpu) (gpupool_allocation_gpu_memory_bytes)`

// usageQueries are what is asked of the Prometheus that scrapes the agents; $W
// is the window, as in 168h:5m. Each gives one series for each task.
var usageQueries = []struct {
	query string
	set   func(u *advise.Usage, v float64)
}{
	{`sum by (task) (sum_over_time((` + held + ` * 0 + 1)[$W])) / 12`, func(u *advise.Usage, v float64) { u.GPUHours = v }},
	{`max by (task) (max_over_time((` + held + ` * 0 + on (gpu) group_left () max by (gpu) (gpupool_gpu_memory_total_bytes))[$W]))`, func(u *advise.Usage, v float64) { u.Memory = v }},
	{`max by (task) (max_over_time((` + held + ` / on (gpu) group_left () max by (gpu) (gpupool_gpu_memory_total_bytes))[$W]))`, func(u *advise.Usage, v float64) { u.MemoryMax = v }},
	{`min by (task) (min_over_time((` + held + ` / on (gpu) group_left () max by (gpu) (gpupool_gpu_memory_total_bytes))[$W]))`, func(u *advise.Usage, v float64) { u.MemoryMin = v }},
	{`avg_over_time((avg by (task) (` + held + ` * 0 + on (gpu) group_left () max by (gpu) (gpupool_gpu_busy_ratio)))[$W])`, func(u *advise.Usage, v float64) { u.BusyMean = v }},
	{`quantile_over_time(0.95, (avg by (task) (` + held + ` * 0 + on (gpu) group_left () max by (gpu) (gpupool_gpu_busy_ratio)))[$W])`, func(u *advise.Usage, v float64) { u.BusyP95 = v }},
	{`quantile_over_time(0.95, (max by (task) (gpupool_instance_kv_used_ratio * on (instance_id) group_left (task) max by (instance_id, task) (gpupool_instance_info)))[$W])`, func(u *advise.Usage, v float64) { u.KVP95 = v }},
}

// usage asks how tasks used their GPUs for so long.
func usage(ctx context.Context, url string, window time.Duration, now time.Time) ([]advise.Usage, error) {
	span := fmt.Sprintf("%ds:5m", int(window.Seconds()))
	nan := math.NaN()
	tasks := map[string]*advise.Usage{}
	for _, q := range usageQueries {
		samples, err := promrange.Vector(ctx, promrange.Config{URL: url, Query: strings.ReplaceAll(q.query, "$W", span), Timeout: 2 * time.Minute}, now)
		if err != nil {
			return nil, err
		}
		for _, s := range samples {
			task := s.Labels["task"]
			u, ok := tasks[task]
			if !ok {
				u = &advise.Usage{Task: task, GPUHours: nan, Memory: nan, MemoryMin: nan, MemoryMax: nan, BusyMean: nan, BusyP95: nan, KVP95: nan}
				tasks[task] = u
			}
			q.set(u, s.Value)
		}
	}
	var all []advise.Usage
	for _, u := range tasks {
		all = append(all, *u)
	}
	return all, nil
}

// sizes adds what the agents' history says of the tasks' GPUs.
func (f *adviseFlags) sizes(ctx context.Context, a *advice) error {
	if f.agentsRange < time.Hour || f.agentsRange > 90*24*time.Hour {
		return fmt.Errorf("--agents-range %s: want 1h to 2160h", f.agentsRange)
	}
	now := time.Now()
	all, err := usage(ctx, f.agents, f.agentsRange, now)
	if err != nil {
		return fmt.Errorf("--agents: %w", err)
	}
	if a.Pool == "" {
		a.Pool, a.From, a.To = "all pools", now.Add(-f.agentsRange), now
	}
	if len(all) == 0 {
		a.Notes = append(a.Notes, "no task's use of a GPU is in the agents' metrics there: does that Prometheus scrape the agents?")
	}
	found, notes := advise.RightSize(all)
	a.Findings = append(a.Findings, found...)
	a.Notes = append(a.Notes, notes...)
	return nil
}
