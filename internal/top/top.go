// Package top draws what the GPUs, the model servers and the queues are doing
// now, for a terminal.
package top

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/gpupool/gpupool/internal/board"
	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/queue"
)

// View is everything that is shown. What nobody could tell is in the errors.
type View struct {
	At     time.Time
	Pools  []board.Pool
	Agents map[string]Agent // by node
	Queues map[string]Queue // by name
	Notes  []string         // what could not be read as a whole
}

// Agent is what one agent said.
type Agent struct {
	Snapshot fleet.Snapshot // meaningful only if Err is nil
	Err      error
}

// Queue is what one queue held.
type Queue struct {
	Depth queue.Depth // meaningful only if Err is nil
	Err   error
}

// Draw writes the view, its lines cut to width columns; 0 cuts none. Texts from
// outside lose what a terminal would obey.
func Draw(w io.Writer, v View, width int) error {
	var b strings.Builder
	v.headline(&b)
	v.pools(&b)
	v.gpus(&b)
	v.instances(&b)
	v.queues(&b)
	for _, n := range v.Notes {
		fmt.Fprintf(&b, "\n! %s", n)
	}
	for line := range strings.SplitSeq(strings.TrimRight(b.String(), "\n"), "\n") {
		if _, err := fmt.Fprintln(w, cut(clean(line), width)); err != nil {
			return err
		}
	}
	return nil
}

// clean takes out of a line what moves the cursor or changes the colours.
func clean(line string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError {
			return '?'
		}
		return r
	}, line)
}

func cut(line string, width int) string {
	if width <= 0 || utf8.RuneCountInString(line) <= width {
		return strings.TrimRight(line, " ")
	}
	return string([]rune(line)[:width-1]) + "…"
}

// headline sums up what is known.
func (v View) headline(b *strings.Builder) {
	hosts, silent, gpus, busy, watts := 0, 0, 0, 0, 0.0
	for _, a := range v.Agents {
		if a.Err != nil {
			silent++
			continue
		}
		hosts++
		for _, g := range a.Snapshot.GPUs {
			gpus++
			if g.Processes.Total > 0 {
				busy++
			}
			if p, ok := g.Power.Fresh(); ok {
				watts += p
			}
		}
	}
	fmt.Fprintf(b, "%s   %s, %s, %d in use, %.1f kW", v.At.Format(time.TimeOnly), plural(hosts, "host"), plural(gpus, "GPU"), busy, watts/1000)
	if silent > 0 {
		fmt.Fprintf(b, "   %s not heard", plural(silent, "agent"))
	}
	b.WriteString("\n")
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// columns writes rows that are cells between tabs, under a heading.
func columns(b *strings.Builder, heading string, rows []string) {
	if len(rows) == 0 {
		return
	}
	b.WriteString("\n")
	t := tabwriter.NewWriter(b, 2, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, heading) // a Builder takes all that is written
	for _, r := range rows {
		_, _ = fmt.Fprintln(t, r)
	}
	_ = t.Flush()
}

// cell is a text from outside, which must not make columns of its own.
func cell(s string) string {
	return strings.NewReplacer("\t", " ", "\n", " ", "\v", " ", "\f", " ").Replace(s)
}

func (v View) pools(b *strings.Builder) {
	var rows []string
	for _, p := range v.Pools {
		want, phases, note := "?", "no process acts on it", ""
		if p.Want != nil {
			want = fmt.Sprint(p.Want.Count)
		}
		if p.Status != nil {
			count := map[string]int{}
			for _, h := range p.Status.Hosts {
				count[h.Phase]++
			}
			var parts []string
			for _, phase := range slices.Sorted(maps.Keys(count)) {
				parts = append(parts, fmt.Sprintf("%d %s", count[phase], phase))
			}
			phases, note = strings.Join(parts, ", "), p.Status.Note
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s", cell(p.Name), want, cell(phases), cell(note)))
	}
	columns(b, "POOL\tWANT\tHOSTS\tNOTE", rows)
}

func (v View) gpus(b *strings.Builder) {
	var rows []string
	for _, node := range slices.Sorted(maps.Keys(v.Agents)) {
		a := v.Agents[node]
		if a.Err != nil {
			rows = append(rows, fmt.Sprintf("%s\t\t\t\t\t\t\t\t%s", cell(node), cell(a.Err.Error())))
			continue
		}
		if len(a.Snapshot.GPUs) == 0 {
			rows = append(rows, fmt.Sprintf("%s\t\t\t\t\t\t\t%s\t%s", cell(node), a.Snapshot.Driver.State, cell(a.Snapshot.Driver.Why)))
		}
		for _, g := range a.Snapshot.GPUs {
			rows = append(rows, gpuRow(node, g))
		}
	}
	columns(b, "HOST\tGPU\tMODEL\tBUSY\tMEMORY\tWATTS\t°C\tHEALTH\tWORK", rows)
}

func gpuRow(node string, g fleet.GPU) string {
	health := string(g.State)
	if g.State == fleet.StateOK && g.Health.Verdict != "" {
		health = string(g.Health.Verdict)
	}
	return fmt.Sprintf("%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s", cell(node), g.Index, cell(strings.TrimPrefix(g.Name, "NVIDIA ")),
		share(g.Busy), memory(g.MemoryUsed, g.MemoryTotal), whole(g.Power), whole(g.Temperature), health, cell(work(g)))
}

// unknown stands for what is not known, which is not zero.
const unknown = "-"

// share is a bar and a percentage.
func share(v fleet.Value) string {
	r, ok := v.Fresh()
	if !ok {
		return unknown
	}
	const width = 8
	eighths := int(r*width*8 + 0.5)
	bar := strings.Repeat("█", eighths/8)
	if rest := eighths % 8; rest > 0 {
		bar += string([]rune(" ▏▎▍▌▋▊▉")[rest])
	}
	return fmt.Sprintf("%-*s %3.0f%%", width, bar, 100*r)
}

func memory(used, total fleet.Value) string {
	u, known := used.Fresh()
	t, whole := total.Fresh()
	if !known || !whole {
		return unknown
	}
	return fmt.Sprintf("%.0f/%.0f GiB", u/(1<<30), t/(1<<30))
}

func whole(v fleet.Value) string {
	x, ok := v.Fresh()
	if !ok {
		return unknown
	}
	return fmt.Sprintf("%.0f", x)
}

// work is whose processes are on a GPU, those of nobody first.
func work(g fleet.GPU) string {
	if q := g.Processes.Quality; q != fleet.QualityOK && q != fleet.QualityStale {
		return unknown
	}
	var parts []string
	if n := g.Processes.Outside; n > 0 {
		parts = append(parts, fmt.Sprintf("%d outside Nomad", n))
	}
	tasks := map[string]int{}
	for _, p := range g.Processes.List {
		if p.Alloc != "" {
			tasks[fmt.Sprintf("%s (%.8s)", cmp.Or(p.Task, "task"), p.Alloc)]++
		}
	}
	parts = append(parts, slices.Sorted(maps.Keys(tasks))...)
	return strings.Join(parts, ", ")
}

func (v View) instances(b *strings.Builder) {
	var rows []string
	for _, node := range slices.Sorted(maps.Keys(v.Agents)) {
		a := v.Agents[node]
		if a.Err != nil || a.Snapshot.Instances == nil {
			continue
		}
		for _, i := range a.Snapshot.Instances.List {
			rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s", cell(i.Job), cell(node), cell(cmp.Or(i.Model, unknown)), cell(cmp.Or(i.Engine, unknown)),
				i.State, board.Age(time.Duration(i.For*float64(time.Second))), load(i, fleet.Waiting), load(i, fleet.Running), percent(i)))
		}
	}
	slices.Sort(rows)
	columns(b, "JOB\tHOST\tMODEL\tSERVER\tSTATE\tFOR\tWAITING\tRUNNING\tKV", rows)
}

func load(i fleet.Instance, s fleet.Signal) string {
	x, ok := i.Fresh(s)
	if !ok {
		return unknown
	}
	return fmt.Sprintf("%.0f", x)
}

func percent(i fleet.Instance) string {
	x, ok := i.Fresh(fleet.KVUsed)
	if !ok {
		return unknown
	}
	return fmt.Sprintf("%.0f%%", 100*x)
}

func (v View) queues(b *strings.Builder) {
	var rows []string
	for _, name := range slices.Sorted(maps.Keys(v.Queues)) {
		q := v.Queues[name]
		if q.Err != nil {
			rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s\t%s", cell(name), unknown, unknown, unknown, cell(q.Err.Error())))
			continue
		}
		running, oldest := unknown, unknown
		if q.Depth.Running != nil {
			running = fmt.Sprintf("%.0f", *q.Depth.Running)
		}
		if q.Depth.Oldest != nil {
			oldest = board.Age(*q.Depth.Oldest)
		}
		rows = append(rows, fmt.Sprintf("%s\t%.0f\t%s\t%s\t", cell(name), q.Depth.Waiting, running, oldest))
	}
	columns(b, "QUEUE\tWAITING\tRUNNING\tOLDEST\tERROR", rows)
}
