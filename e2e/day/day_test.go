// Package day plays days of a few minutes to two policies at once, on real
// parts: Consul, Nomad, the autoscaler, apm-nvml and strategy-predictive. It
// takes root; see package lab.
package day

import (
	"context"
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	nomadapi "github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/e2e/lab"
	"github.com/gpupool/gpupool/internal/record"
)

var recordTo = flag.String("record", "", "`file` to write demand and capacity of the run to, as CSV")

// The day, and what a replica takes to start in it: an hour and a half of a day
// of 24.
const (
	season = 180 * time.Second
	load   = 8 * time.Second  // of what a replica serves with
	lead   = 12 * time.Second // with what Nomad, Consul and the next reading of the demand take
	most   = 10               // replicas
	full   = 0.8              // of a replica, that either policy aims at

	night   = 60 * time.Second // of the day, its first part
	ramp    = 25 * time.Second // after it, from few to many
	evening = 30 * time.Second // the last part, from many to few
	few     = 1.0
	many    = 7.0

	begin = 30 * time.Second // time of day at which the first one begins
	after = 15 * time.Second // the ramp, the last one ends
	days  = 3
)

// demand is the replicas' worth of work at a time since the start of the first
// day. A few percent of it are noise, the same in each run.
func demand(t time.Duration) float64 {
	noise := 1 + 0.03*math.Sin(float64(7919*int(t.Seconds())))
	switch at := t % season; {
	case at < night:
		return few * noise
	case at < night+ramp:
		return (few + (many-few)*(at-night).Seconds()/ramp.Seconds()) * noise
	case at < season-evening:
		return many * noise
	default:
		return (few + (many-few)*(season-at).Seconds()/evening.Seconds()) * noise
	}
}

// policies are what is compared, by the names of their jobs.
var policies = []string{"predictive", "target-value"}

// TestMorning: on a morning like those before, capacity is asked for before the
// demand is there. Nomad's target-value, on the same demand, is late by what a
// replica takes to start.
func TestMorning(t *testing.T) {
	w := raise(t)
	began := time.Now().Add(-begin)
	w.begin(began)
	seen := w.watch(began, (days-1)*season+night+ramp+after)
	if *recordTo != "" {
		w.ok(seen.writeFile(*recordTo))
	}

	var last morning // of predictive
	for d := range days {
		var of [2]morning
		for i, name := range policies {
			m := seen.morning(d, i)
			t.Logf("day %d, %-13s asks for more %+5.1f s from the rise of demand; late for %4.1f s, short of %5.1f replica-seconds; %4.0f paid for since midnight",
				d+1, name+":", m.rose.Seconds(), m.late.Seconds(), m.short, m.paid)
			of[i] = m
		}
		if last = of[0]; d > 0 {
			better(t, d+1, of[0], of[1])
		}
	}
	// What makes it so is that the rise is expected while there is none.
	dawn := began.Add((days-1)*season + night)
	if times := w.expects(dawn.Add(-lead), dawn); times < 1.3 {
		t.Errorf("in the %s before the last morning predictive expected %.1f times the demand there was", lead, times)
	} else {
		t.Logf("in the %s before the last morning predictive expected up to %.1f times the demand there was", lead, times)
	}
	if last.night > most/2 {
		t.Errorf("predictive kept %d replicas in the last night: that is a reserve and foresees nothing", last.night)
	}
}

// better says where a morning that had one like it before it is not met before
// target-value meets it.
func better(t *testing.T, day int, predictive, targetValue morning) {
	t.Helper()
	if targetValue.short < 5 {
		t.Errorf("day %d: target-value was short of %.1f replica-seconds: nothing is compared", day, targetValue.short)
	}
	if predictive.short > targetValue.short/2 {
		t.Errorf("day %d: predictive was short of %.1f replica-seconds, target-value of %.1f", day, predictive.short, targetValue.short)
	}
	if predictive.rose >= targetValue.rose {
		t.Errorf("day %d: predictive asked for more %.1f s from the rise of demand, target-value %.1f s", day, predictive.rose.Seconds(), targetValue.rose.Seconds())
	}
}

// world is a lab with an autoscaler and the jobs of both policies.
type world struct {
	*testing.T
	*lab.Lab
	ctx     context.Context
	dir     string
	gateway *gateway
}

// raise starts everything, and returns when each policy has its one replica of
// the night.
func raise(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "gpupool-e2e-") // t.TempDir's names have characters that the lab's command lines cannot
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	l, err := lab.Start(ctx, lab.Config{Dir: dir, Hosts: 1, Progress: func(m string) { t.Log(m) }})
	if err != nil {
		cancel()
		t.Fatalf("%v\nlogs are in %s", err, dir)
	}
	w := &world{T: t, Lab: l, ctx: ctx, dir: dir, gateway: newGateway(t, l.Nomad())}
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			t.Logf("the last lines of each log; all are in %s\n%s", dir, l.Tail(30))
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if !t.Failed() {
			os.RemoveAll(dir)
		}
	})
	w.build("./plugins/...", "./e2e/modelserver")
	w.submit()
	w.autoscaler()
	return w
}

func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) bin() string { return filepath.Join(w.dir, "bin") }

func (w *world) build(packages ...string) {
	w.Helper()
	root, err := lab.Repository()
	w.ok(err)
	build := exec.CommandContext(w.ctx, "go", append([]string{"build", "-buildvcs=false", "-o", w.bin() + "/"}, packages...)...)
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		w.Fatalf("go build: %v: %s", err, out)
	}
}

// submit runs the jobs, and waits for their first replicas.
func (w *world) submit() {
	w.Helper()
	spec, err := os.ReadFile("replicas.nomad.hcl")
	w.ok(err)
	for _, name := range policies {
		_, err := w.RunJob(w.ctx, string(spec), map[string]string{
			"strategy":    fmt.Sprintf("%q", name),
			"command":     fmt.Sprintf("%q", fmt.Sprintf("%s/modelserver -load %s", w.bin(), load)),
			"max":         fmt.Sprint(most),
			"season":      fmt.Sprintf("%q", season),
			"lead_time":   fmt.Sprintf("%q", lead),
			"utilization": fmt.Sprint(full),
		})
		w.ok(err)
	}
	for _, name := range policies {
		w.ok(lab.Until(w.ctx, name+" has a replica", func(ctx context.Context) (bool, error) {
			n, err := w.ready(ctx, name)
			return n == 1, err
		}))
	}
}

// autoscaler starts the autoscaler with the plugins of this tree. Its policies
// are those in the jobs.
func (w *world) autoscaler() {
	w.Helper()
	files := map[string]string{
		"pools.hcl": fmt.Sprintf(`
pool "h100" {
  node_pool     = "gpu"
  device        = "nvidia/gpu"
  gpus_per_host = 2
  power "ipmi" {
    username = %q
    password = "env:%s"
  }
  host "gpu-1" {
    power { address = %q }
  }
}
`, w.Hosts()[0].User, lab.PasswordEnv, w.Hosts()[0].BMC),
		"queues.hcl": fmt.Sprintf(`
queue "demand" {
  source "metrics-api" {
    url            = %[1]q
    value_location = "demand"
  }
}
queue "load" {
  source "metrics-api" {
    url            = %[1]q
    value_location = "load"
  }
}
`, w.gateway.url),
		"autoscaler.hcl": fmt.Sprintf(`
log_level = "debug"
http {
  bind_address = %q
}
nomad {
  address = %q
}
apm "gpupool" {
  driver = "apm-nvml"
  config = {
    pools          = "%[4]s/pools.hcl"
    queues         = "%[4]s/queues.hcl"
    consul_address = %[3]q
    sample         = "1s"
    listen         = "off"
  }
}
strategy "gpupool" {
  driver = "strategy-predictive"
  config = {
    decision_log = "%[4]s/decisions.jsonl"
  }
}
`, w.ControlIP(), w.NomadAddr(), w.ConsulAddr(), w.dir),
	}
	for name, text := range files {
		w.ok(os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600))
	}
	_, err := w.StartAutoscaler(filepath.Join(w.dir, "autoscaler.hcl"), w.bin())
	w.ok(err)
	w.ok(lab.Until(w.ctx, "apm-nvml asks for the demand", func(context.Context) (bool, error) { return w.gateway.asked.Load() > 0, nil }))
}

// expects is the most that was expected in decisions of that time, one lead time
// ahead, over what there was.
func (w *world) expects(from, to time.Time) (times float64) {
	w.Helper()
	_, err := record.ReadFile(filepath.Join(w.dir, "decisions.jsonl"), func(r record.Read) error {
		if at := r.Input.Now; at.Before(from) || at.After(to) {
			return nil
		}
		expected, _ := r.Decision.Term("expected")
		if recent, ok := r.Decision.Term("recent"); ok && recent.Value > 0 {
			times = max(times, expected.Value/recent.Value)
		}
		return nil
	})
	w.ok(err)
	return times
}

// ready is the number of replicas that pass their check in Consul: those that a
// router sends work to.
func (w *world) ready(ctx context.Context, name string) (int, error) {
	entries, _, err := w.Consul().Health().Service(name, "", true, (&consulapi.QueryOptions{}).WithContext(ctx))
	return len(entries), err
}

// wanted is the number of replicas that were last asked for.
func (w *world) wanted(name string) (int, error) {
	status, _, err := w.Nomad().Jobs().ScaleStatus(name, (&nomadapi.QueryOptions{}).WithContext(w.ctx))
	if err != nil {
		return 0, err
	}
	return status.TaskGroups["replicas"].Desired, nil
}
