package live

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/control"
	"github.com/gpupool/gpupool/internal/pool"
)

const manyHosts = 10_000

// BenchmarkState is what a plugin's Status answers from, in a pool of 10,000
// hosts of 20 classes.
func BenchmarkState(b *testing.B) {
	c, err := consul.New(consul.Config{Address: "127.0.0.1:1"})
	if err != nil {
		b.Fatal(err)
	}
	log, _ := newLog()
	r := NewRunner(RunnerConfig{Pool: "p", Site: NewSite(SiteConfig{}), Consul: c, Limits: pool.Limits{Max: manyHosts}, Log: log})
	now := time.Now()
	r.lease, r.want = consul.Granted(consul.Hold{Gen: 7, Until: now.Add(time.Hour)}), consul.Want{Count: manyHosts, Rev: 1}
	r.last = control.Report{Gen: 7, At: now}
	r.times, r.joules = map[string]pool.Times{}, map[string]float64{}
	for i := range manyHosts {
		class := fmt.Sprint("class-", i%20)
		r.last.Decision.Hosts = append(r.last.Decision.Hosts, pool.Status{ID: fmt.Sprint("gpu-", i), Phase: pool.Ready, Class: class})
		r.times[class], r.joules[class] = pool.Times{}, 1
	}
	b.ReportAllocs()
	for b.Loop() {
		if !r.State().Ready {
			b.Fatal("it is not ready")
		}
	}
}

// BenchmarkSteadySweep is one look at the power of 10,000 hosts that nothing
// happens to, whose controllers answer at once.
func BenchmarkSteadySweep(b *testing.B) {
	hosts := make([]Host, manyHosts)
	for i := range hosts {
		hosts[i] = Host{Host: pool.Host{ID: fmt.Sprint("gpu-", i)}, Driver: driver{state: func(context.Context) (pool.Power, error) { return pool.PowerOn, nil }}}
	}
	s := NewSite(SiteConfig{Hosts: hosts, PowerRest: time.Hour})
	views := make([]pool.View, len(hosts))
	b.ReportAllocs()
	for b.Loop() {
		s.seePower(b.Context(), views)
	}
}
