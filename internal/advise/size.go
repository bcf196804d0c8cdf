package advise

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Usage is how a task used the GPUs that Nomad gave it. What is not known is
// NaN.
type Usage struct {
	Task     string
	GPUHours float64 // held
	Memory   float64 // bytes of one of its GPUs
	// MemoryMin and MemoryMax are the least and the most of a GPU's memory that
	// the task had, as shares; over all of its GPUs.
	MemoryMin, MemoryMax float64
	// BusyMean and BusyP95 are of the share of time in which a kernel ran. A GPU
	// that is always busy may still be hardly loaded, so a low one is proof and
	// a high one is none.
	BusyMean, BusyP95 float64
	KVP95             float64 // share of the KV cache in use; NaN where there is none
}

const (
	leastGPUHours = 24.0
	fullMemory    = 0.97 // of a GPU: the next larger request fails
	roomy         = 0.45 // of a GPU: two would fit
	unused        = 0.05 // mean busy share
	reserve       = 0.9  // of a GPU, that shares of it may add up to
	// prealloc is how little a server's memory moves that took it in advance,
	// as vLLM and SGLang do: then it says nothing of what is needed.
	prealloc = 0.02
)

// RightSize says which tasks' GPUs are too large, or too small, for what the
// tasks do with them.
func RightSize(all []Usage) (found []Finding, notes []string) {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b Usage) int { return cmp.Or(cmp.Compare(b.GPUHours, a.GPUHours), cmp.Compare(a.Task, b.Task)) })
	var short []string
	for _, u := range all {
		if !(u.GPUHours >= leastGPUHours) {
			short = append(short, u.Task)
			continue
		}
		if f, ok := u.finding(); ok {
			found = append(found, f)
		}
	}
	if len(short) > 0 {
		notes = append(notes, fmt.Sprintf("of tasks that held GPUs for less than %g GPU-hours nothing is said: %s", leastGPUHours, strings.Join(short, ", ")))
	}
	return found, notes
}

// reserved reports whether the task took its memory in advance.
func (u Usage) reserved() bool { return u.MemoryMax-u.MemoryMin <= prealloc && u.MemoryMax > roomy }

func (u Usage) finding() (Finding, bool) {
	f := Finding{Kind: Size, Figures: u.figures()}
	busy := fmt.Sprintf("a kernel ran in %s of the time (95th percentile %s)", percent(u.BusyMean), percent(u.BusyP95))
	switch {
	case u.BusyMean < unused:
		f.What = fmt.Sprintf("task %s held GPUs for %.0f GPU-hours, and %s", u.Task, u.GPUHours, busy)
		f.Change = "let its job end, or its count go to zero, when there is nothing to do; or run it without a device block if it needs no GPU"
	case u.reserved() && u.KVP95 < roomy && u.BusyP95 < roomy:
		n := parts(u.KVP95, u.BusyP95)
		f.What = fmt.Sprintf("task %s takes %s of its GPU's memory in advance, of its KV cache %s is in use (95th percentile), and %s", u.Task, percent(u.MemoryMax), percent(u.KVP95), busy)
		f.Change = fmt.Sprintf("let %d of them share a GPU: lower the server's share of memory (vLLM: gpu_memory_utilization) to %s each, or give each a MIG device; or run fewer", n, percent(reserve/float64(n)))
	case u.reserved():
		return Finding{}, false // its memory says nothing, and there is nothing else to go by
	case u.MemoryMax >= fullMemory:
		f.What = fmt.Sprintf("task %s had up to %s of its GPU's %s in use: a little more, and it ends for want of memory", u.Task, percent(u.MemoryMax), gib(u.Memory))
		f.Change = "give it a GPU with more memory (the model in its device block), or less to do at a time"
	case u.MemoryMax < roomy && u.BusyP95 < roomy:
		n := parts(u.MemoryMax, u.BusyP95)
		f.What = fmt.Sprintf("task %s had at most %s of its GPU's %s in use, and %s", u.Task, percent(u.MemoryMax), gib(u.Memory), busy)
		f.Change = fmt.Sprintf("let %d of them share a GPU: a MIG device of 1/%d of it, in their device blocks", n, n)
	case u.MemoryMax < roomy:
		f.What = fmt.Sprintf("task %s had at most %s of its GPU's %s in use, and %s", u.Task, percent(u.MemoryMax), gib(u.Memory), busy)
		f.Change = fmt.Sprintf("it needs a fast GPU, not a large one: one of %s would do, as far as memory goes", gib(u.Memory*u.MemoryMax/reserve))
	default:
		return Finding{}, false
	}
	return f, true
}

// parts is how many tasks fit a GPU of which each takes so much, 2 to 7, which
// is as finely as MIG divides.
func parts(shares ...float64) int {
	most := 0.0
	for _, s := range shares {
		if !math.IsNaN(s) {
			most = max(most, s)
		}
	}
	return min(max(int(reserve/max(most, 0.01)), 2), 7)
}

func (u Usage) figures() []Figure {
	var out []Figure
	for _, f := range []Figure{
		{"held", u.GPUHours, "GPU-hours"}, {"memory_max", u.MemoryMax, ""}, {"memory_min", u.MemoryMin, ""}, {"memory", u.Memory, "bytes"},
		{"busy_mean", u.BusyMean, ""}, {"busy_p95", u.BusyP95, ""}, {"kv_p95", u.KVP95, ""},
	} {
		if !math.IsNaN(f.Value) {
			out = append(out, f)
		}
	}
	return out
}

func gib(bytes float64) string {
	if math.IsNaN(bytes) {
		return "memory"
	}
	return fmt.Sprintf("%.0f GiB", math.Ceil(bytes/(1<<30)))
}
