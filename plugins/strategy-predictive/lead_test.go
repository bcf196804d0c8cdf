package main

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/consul/consultest"
	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/strategy"
)

func boots(seconds ...float64) map[string]pool.Times {
	return map[string]pool.Times{"": {Boot: pool.Took{Last: seconds}}, "fast": {Boot: pool.Took{Last: []float64{1, 1, 1, 1, 1}}}}
}

func TestLeadIsLearned(t *testing.T) {
	l := newLeads(hclog.NewNullLogger())
	var answer map[string]pool.Times
	var fails error
	l.read = func(context.Context, strategy.LeadSource) (map[string]pool.Times, error) { return answer, fails }
	src := strategy.LeadSource{Pool: "h100"}
	l.of[src] = &lead{} // the test looks by itself
	const configured = 5 * time.Minute
	for _, c := range []struct {
		name   string
		answer map[string]pool.Times
		fails  error
		want   time.Duration
	}{
		{"nothing learned", nil, nil, configured},
		{"too few boots", map[string]pool.Times{"": {Boot: pool.Took{Last: []float64{400, 400}}}}, nil, configured},
		{"slower than thought", boots(380, 390, 400, 410, 420), nil, 7 * time.Minute},
		{"hardly another", boots(390, 400, 410, 420, 430), nil, 7 * time.Minute},
		{"Consul is away", nil, errors.New("no route"), 7 * time.Minute},
		{"never beyond four times", boots(5000, 5000, 5000, 5000, 5000), nil, 20 * time.Minute},
		{"never below half", boots(10, 10, 10, 10, 10), nil, 150 * time.Second},
	} {
		answer, fails = c.answer, c.fails
		l.look(src)
		if got := l.lead(src, configured); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	if got := l.lead(strategy.LeadSource{}, configured); got != configured {
		t.Errorf("without a pool: %s", got)
	}
}

// What the target publishes in Consul is what decisions are made with: times
// written under the pool's lease, read through the check's own settings.
func TestLeadIsLearnedFromConsul(t *testing.T) {
	agent := consultest.Start(t)
	c, err := consul.New(consul.Config{Address: agent.Addr})
	if err != nil {
		t.Fatal(err)
	}
	h100 := c.Pool("h100")
	lease := h100.NewLease(consul.LeaseConfig{Holder: t.Name()})
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { lease.Run(ctx) })
	defer wg.Wait()
	defer stop()
	eventually(t, "the lease is won", func() bool { _, held := lease.Held(time.Now()); return held })
	if err := h100.PutTimes(t.Context(), lease, boots(380, 390, 400, 410, 420)); err != nil {
		t.Fatal(err)
	}

	p := newPlugin(hclog.NewNullLogger())
	if err := p.SetConfig(map[string]string{"consul_address": agent.Addr, "lead_time": "5m"}); err != nil {
		t.Fatal(err)
	}
	// A source of three hours and more, so that there is a forecast.
	decide := func(pool string) string {
		got, err := run(t, p, map[string]string{"units": "2", "max": "9", "learn_lead_from": pool}, 4, repeat(8, 4*360)...)
		if err != nil {
			t.Fatal(err)
		}
		return got.Reason
	}
	if said := decide("h100"); !strings.Contains(said, "will be needed in 5m ") {
		t.Errorf("before Consul was asked: %s", said)
	}
	eventually(t, "the lead time is that of the hosts", func() bool { return strings.Contains(decide("h100"), "will be needed in 7m ") })
	source := strategy.LeadSource{Pool: "h100", ConsulAddress: agent.Addr, ConsulPrefix: "gpupool/v1/"}
	other := source
	other.Pool = "b200"
	decide("b200") // of which nothing is known
	p.leads.look(other)
	if said := decide("b200"); !strings.Contains(said, "will be needed in 5m ") {
		t.Errorf("of a pool that nothing is known of: %s", said)
	}

	stop()
	wg.Wait()
	agent.Stop()
	p.leads.look(source)
	if said := decide("h100"); !strings.Contains(said, "will be needed in 7m ") || !p.leads.of[source].broken {
		t.Errorf("while Consul is away: %s", said)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20s: %s", what)
		}
	}
}
