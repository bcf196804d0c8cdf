package instance

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	consul "github.com/hashicorp/consul/api"

	"github.com/gpupool/gpupool/agent/register"
	"github.com/gpupool/gpupool/internal/engine"
	"github.com/gpupool/gpupool/internal/fleet"
)

func (w *Watcher) gpuName(i *watched) string {
	if len(i.place.GPUs) == 0 {
		return ""
	}
	for _, g := range w.cfg.GPUs() {
		if isOf(g, i.place.GPUs[0]) && g.Name != "" {
			return clean(g.Name)
		}
	}
	return i.gpu
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return clean(list[0])
}

// Instances are the instances as they are now.
func (w *Watcher) Instances(now time.Time) *fleet.Instances {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := &fleet.Instances{Known: true, WarmUps: w.learned.list()}
	switch {
	case w.read.IsZero():
		out.Known, out.Why = false, "Nomad has not said yet what runs on this host"
	case now.Sub(w.read) > forgetAfter:
		out.Known, out.Why = false, fmt.Sprintf("Nomad has not said for %s what runs on this host", now.Sub(w.read).Round(time.Second))
	}
	if !out.Known && w.err != nil {
		out.Why = clean(fmt.Sprintf("%s: %v", out.Why, w.err))
	}
	for _, id := range slices.Sorted(maps.Keys(w.found)) {
		if i := w.found[id]; i.profile.Name != "" {
			out.List = append(out.List, w.view(i, now))
		}
	}
	return out
}

// identify is who an instance is, and its state.
func (w *Watcher) identify(i *watched) fleet.Instance {
	v := i.place
	v.GPUName = w.gpuName(i)
	v.Engine, v.Model, v.Address = i.profile.Name, first(i.models), i.address
	v.Service = ServiceName(w.cfg.Pattern, orElse(i.settings.service, v.Job), v.Namespace)
	v.State = i.machine.State
	if i.machine.Took > 0 {
		took := seconds(i.machine.Took)
		v.WarmUp = &took
	}
	return v
}

// view is one instance as readers see it.
func (w *Watcher) view(i *watched, now time.Time) fleet.Instance {
	m := i.machine
	v := w.identify(i)
	v.For, v.Why, v.Changes = seconds(now.Sub(m.Since)), clean(m.Why), m.Changes
	v.Probe = i.probe
	if i.problem != "" {
		v.Probe = i.problem
	}
	if m.State == fleet.Warming {
		if usual, known := w.learned.median(warmUpKey{orElse(v.Model, i.lastModel(w)), v.GPUName, fleet.Cold}); known {
			left := max(0, seconds(usual-now.Sub(i.started)))
			v.Expected = &left
		}
	}
	if len(i.values) > 0 {
		v.Load = map[fleet.Signal]fleet.Value{}
	}
	for signal, one := range i.values {
		age, copied := now.Sub(one.at), one.v
		quality := fleet.QualityOK
		if age > staleAfter*max(w.cfg.Period, time.Second) {
			quality = fleet.QualityStale
		}
		v.Load[signal] = fleet.Value{Quality: quality, Value: &copied, Age: seconds(age)}
	}
	return v
}

// lastModel is the model of another instance of the same job, for an instance
// that has not named its own yet.
func (i *watched) lastModel(w *Watcher) string {
	for _, o := range w.found {
		if o.place.Job == i.place.Job && o.place.Namespace == i.place.Namespace && o.place.Task == i.place.Task && len(o.models) > 0 {
			return first(o.models)
		}
	}
	return ""
}

func seconds(d time.Duration) float64 {
	return max(0, d.Round(time.Millisecond).Seconds())
}

// Flaws are how often each flaw was seen of each instance, by ID.
func (w *Watcher) Flaws() map[string]map[engine.Flaw]uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string]map[engine.Flaw]uint64{}
	for id, i := range w.found {
		if i.profile.Name != "" {
			out[id] = maps.Clone(i.flaws)
		}
	}
	return out
}

// Entries are what Consul is to know of the instances, and whether that is all:
// before Nomad said what is there, it is not.
func (w *Watcher) Entries() (list []register.Entry, all bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(w.found)) {
		i := w.found[id]
		if i.profile.Name != "" && i.address != "" && i.machine.State != fleet.Cold {
			list = append(list, w.entry(i))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(w.left)) { // until Nomad said what is there
		e := w.left[id]
		if time.Since(w.leftAt) > adoptFor {
			e.Status, e.Text = consul.HealthCritical, "the agent does not know of it yet"
		}
		list = append(list, e)
	}
	return list, !w.read.IsZero()
}

// entry is one instance as Consul is to know it. All of it changes with the
// state only: load is not for Consul.
func (w *Watcher) entry(i *watched) register.Entry {
	v := w.identify(i)
	host, port, _ := splitAddress(i.address)
	e := register.Entry{
		ID: v.ID, Name: v.Service, Address: host, Port: port,
		Status: consul.HealthCritical, Text: register.Text(v.State),
		Tags: []string{"gpupool", v.Engine},
		Meta: map[string]string{
			"schema": strconv.Itoa(fleet.Schema), "namespace": v.Namespace, "job": v.Job, "group": v.Group, "task": v.Task, "alloc_id": v.Alloc,
			"engine": v.Engine, "started": startedText(i.started),
		},
	}
	if v.State.Ready() {
		e.Status = consul.HealthPassing
		e.Tags = append(e.Tags, string(fleet.Warm))
	} else {
		e.Tags = append(e.Tags, string(v.State))
	}
	if v.State == fleet.Draining {
		e.Maintenance = clean(i.machine.Why)
	}
	for key, text := range map[string]string{"model": v.Model, "gpu_name": v.GPUName, "gpus": strings.Join(v.GPUs, ",")} {
		if text != "" && len(text) <= 512 { // Consul's limit
			e.Meta[key] = text
		}
	}
	if v.WarmUp != nil && i.machine.TookFrom == fleet.Cold {
		e.Meta["warm_up_s"] = strconv.FormatFloat(*v.WarmUp, 'f', 3, 64)
	}
	return e
}

func startedText(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
