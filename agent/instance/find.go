package instance

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/agent/register"
	"github.com/gpupool/gpupool/internal/engine"
	"github.com/gpupool/gpupool/internal/fleet"
)

// candidate is a task that is a model server, or may turn out to be one.
type candidate struct {
	id       string
	place    fleet.Instance // who it is: namespace, job, group, task, allocation, GPUs
	profile  engine.Profile // as the settings change it; Name is empty if it must be found out
	settings settings
	address  string // host:port for requests; empty if Nomad gave no port
	metrics  string
	problem  string // what is wrong with its settings; empty if nothing is

	task    Task
	why     string // of a task that does not run
	started time.Time
	stop    string
}

// find lists the candidates among the allocations of this host, in the order
// of their IDs. An allocation that its client is done with has none.
func find(allocs []*api.Allocation) []candidate {
	var list []candidate
	taken := map[string]bool{}
	allocs = slices.DeleteFunc(slices.Clone(allocs), func(a *api.Allocation) bool { return a == nil || a.Job == nil || over(a) })
	slices.SortFunc(allocs, func(a, b *api.Allocation) int { return cmp.Compare(a.ID, b.ID) })
	for _, a := range allocs {
		for _, c := range tasks(a) {
			if c.address != "" && taken[c.address] {
				continue // two tasks of a group, and one port
			}
			taken[c.address] = true
			list = append(list, c)
			if len(list) == fleet.MaxInstances {
				return list
			}
		}
	}
	return list
}

// over says whether nothing of an allocation runs any more, or will.
func over(a *api.Allocation) bool {
	switch a.ClientStatus {
	case api.AllocClientStatusComplete, api.AllocClientStatusFailed, api.AllocClientStatusLost:
		return true
	}
	return a.ClientStatus == api.AllocClientStatusPending && a.DesiredStatus != api.AllocDesiredStatusRun
}

// tasks are the candidates in one allocation.
func tasks(a *api.Allocation) []candidate {
	i := slices.IndexFunc(a.Job.TaskGroups, func(g *api.TaskGroup) bool { return g != nil && g.Name != nil && *g.Name == a.TaskGroup })
	if i < 0 {
		return nil
	}
	group := a.Job.TaskGroups[i]
	var list []candidate
	for _, t := range group.Tasks {
		if t == nil {
			continue
		}
		if c, ok := consider(a, group, t); ok {
			list = append(list, c)
		}
	}
	return list
}

// consider says whether a task is a candidate: it is named one in metadata, or
// it has a GPU and either looks like a model server or has a port to find out at.
func consider(a *api.Allocation, group *api.TaskGroup, t *api.Task) (candidate, bool) {
	job := deref(a.Job.ID)
	s, err := readSettings(fmt.Sprintf("job %q, task %q", clean(job), clean(t.Name)), a.Job.Meta, group.Meta, t.Meta)
	gpus := devices(a, t.Name)
	if s.engine == engineOff || len(gpus) == 0 && (s.engine == engineAuto || t.Meta[metaPrefix+"engine"] == "" && len(group.Tasks) > 1) {
		return candidate{}, false
	}
	c := candidate{settings: s}
	profile, known := engine.Find(s.engine)
	if !known {
		profile, known = engine.Hinted(command(t))
	}
	ports := ports(a)
	if !known && len(ports) == 0 {
		return candidate{}, false
	}
	if known {
		c.profile = s.apply(profile)
	}
	request, found := pick(ports, s.port, append(slices.Clone(profile.Ports), "http", "api"))
	var problems []string
	if err != nil {
		problems = append(problems, err.Error())
	}
	if found {
		c.address = request.address
	} else {
		problems = append(problems, noPort(s.port, ports))
	}
	c.metrics = c.address
	if metrics, found := pick(ports, s.metricsPort, profile.MetricsPorts); found && (s.metricsPort != "" || slices.Contains(profile.MetricsPorts, metrics.label)) {
		c.metrics = metrics.address
	} else if s.metricsPort != "" {
		problems = append(problems, noPort(s.metricsPort, ports))
	}
	c.problem = clean(strings.Join(problems, "; "))
	c.id = register.InstancePrefix + a.ID + "-" + nameOf(t.Name)
	c.place = fleet.Instance{
		ID: c.id, Namespace: clean(a.Namespace), Job: clean(job), Group: clean(a.TaskGroup), Task: clean(t.Name), Alloc: clean(a.ID), GPUs: gpus,
	}
	c.life(a, t)
	return c, true
}

// life reads whether the task runs, and whether it is to end.
func (c *candidate) life(a *api.Allocation, t *api.Task) {
	switch {
	case a.DesiredStatus == api.AllocDesiredStatusStop:
		c.stop = orElse(clean(a.DesiredDescription), "Nomad stops the allocation")
	case a.DesiredStatus == api.AllocDesiredStatusEvict:
		c.stop = "Nomad evicts the allocation"
	}
	state := a.TaskStates[t.Name]
	if state == nil || state.State == "pending" {
		c.why = "its task is pending" + lastEvent(state)
		return
	}
	if state.State == "dead" {
		c.why = "its task has ended" + lastEvent(state)
		return
	}
	c.task, c.started = TaskRunning, state.StartedAt
}

func lastEvent(s *api.TaskState) string {
	if s == nil || len(s.Events) == 0 || s.Events[len(s.Events)-1] == nil {
		return ""
	}
	if text := clean(s.Events[len(s.Events)-1].DisplayMessage); text != "" {
		return ": " + text
	}
	return ""
}

// devices are the IDs of the GPUs that Nomad gave to a task.
func devices(a *api.Allocation, task string) []string {
	if a.AllocatedResources == nil || a.AllocatedResources.Tasks[task] == nil {
		return nil
	}
	var ids []string
	for _, d := range a.AllocatedResources.Tasks[task].Devices {
		if d == nil || d.Type != "gpu" {
			continue
		}
		for _, id := range d.DeviceIDs {
			if len(ids) < fleet.MaxGPUs {
				ids = append(ids, clean(id))
			}
		}
	}
	slices.Sort(ids)
	return ids
}

// port is a port of a group on this host.
type port struct{ label, address string }

const maxPorts = 32

// ports are those of the group's network, in the order of the job. A port in a
// group's network is reached at the host's address whatever network the task
// has.
func ports(a *api.Allocation) []port {
	if a.AllocatedResources == nil {
		return nil
	}
	var list []port
	for _, p := range a.AllocatedResources.Shared.Ports {
		if net.ParseIP(p.HostIP) == nil || p.Value < 1 || p.Value > 65535 || len(list) == maxPorts {
			continue
		}
		list = append(list, port{clean(p.Label), net.JoinHostPort(p.HostIP, strconv.Itoa(p.Value))})
	}
	return list
}

// pick takes the port that is named; else the first of the likely ones; else
// the only one.
func pick(ports []port, named string, likely []string) (port, bool) {
	if named != "" {
		likely = []string{named}
	}
	for _, label := range likely {
		if i := slices.IndexFunc(ports, func(p port) bool { return p.label == label }); i >= 0 {
			return ports[i], true
		}
	}
	if named == "" && len(ports) == 1 {
		return ports[0], true
	}
	return port{}, false
}

func noPort(named string, ports []port) string {
	var labels []string
	for _, p := range ports {
		labels = append(labels, strconv.Quote(p.label))
	}
	if named != "" {
		return fmt.Sprintf("the group has no port %.60q, but %s", named, orElse(strings.Join(labels, ", "), "none"))
	}
	if labels == nil {
		return "the group has no port of this host; give it a network with one"
	}
	return fmt.Sprintf("which of the group's ports is for requests is not known; say so in the metadata, %sport = one of %s", metaPrefix, strings.Join(labels, ", "))
}

// command is what a task runs, as far as it can be read: image, command and
// arguments.
func command(t *api.Task) string {
	var words []string
	for _, key := range []string{"image", "command", "entrypoint", "args"} {
		words = append(words, flatten(t.Config[key])...)
	}
	text := strings.Join(words, " ")
	return text[:min(len(text), 16<<10)]
}

func flatten(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var words []string
		for _, w := range v {
			words = append(words, flatten(w)...)
		}
		return words
	case []string:
		return v
	}
	return nil
}

// clean makes a text of a job fit to be printed: one line, printable, bounded.
func clean(text string) string {
	const most = 256
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, " "))
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	return strings.TrimSpace(text)
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
