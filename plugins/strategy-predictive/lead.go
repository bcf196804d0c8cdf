package main

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/strategy"
)

const (
	lookEach    = time.Minute // between two looks at what was learned
	lookTimeout = 10 * time.Second
	leadStep    = 30 * time.Second // learned lead times are rounded up to it
	enoughBoots = 5                // before what was learned is believed
)

// leads knows how long hosts of a pool really took to boot: the target writes
// that to Consul, and here it is looked up beside the decisions.
type leads struct {
	log  hclog.Logger
	read func(ctx context.Context, s strategy.LeadSource) (map[string]pool.Times, error)

	mu sync.Mutex
	of map[strategy.LeadSource]*lead
}

type lead struct {
	learned time.Duration // 95th percentile; 0 for not known
	inUse   time.Duration
	broken  bool
}

func newLeads(log hclog.Logger) *leads {
	return &leads{log: log, read: readTimes, of: map[strategy.LeadSource]*lead{}}
}

func readTimes(ctx context.Context, s strategy.LeadSource) (map[string]pool.Times, error) {
	c, err := consul.New(consul.Config{Address: s.ConsulAddress, Prefix: s.ConsulPrefix})
	if err != nil {
		return nil, err
	}
	return c.Pool(s.Pool).Times(ctx)
}

// lead is the lead time to decide by: what was learned, within half and four
// times what is configured, and otherwise that. It changes only where the two
// are a fifth apart: each change has the past read anew.
func (l *leads) lead(s strategy.LeadSource, configured time.Duration) time.Duration {
	if s.Pool == "" {
		return configured
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.of[s]
	if v == nil {
		if len(l.of) >= mostChecks {
			return configured
		}
		v = &lead{}
		l.of[s] = v
		go l.watch(s)
	}
	if v.learned == 0 {
		return configured
	}
	now := (v.learned + leadStep - 1).Truncate(leadStep)
	now = min(max(now, configured/2), 4*configured)
	if off := (now - v.inUse).Abs(); v.inUse == 0 || off > v.inUse/5 {
		v.inUse = now
	}
	return v.inUse
}

// watch looks up what was learned until the process ends.
func (l *leads) watch(s strategy.LeadSource) {
	for {
		l.look(s)
		time.Sleep(lookEach)
	}
}

// look looks once. While Consul does not answer, what was learned stays.
func (l *leads) look(s strategy.LeadSource) {
	ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
	defer cancel()
	all, err := l.read(ctx, s)
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.of[s]
	switch {
	case err != nil && !v.broken:
		l.log.Warn("the lead time is not learned until Consul answers; the last one learned, or the one configured, is used", "pool", s.Pool, "error", err)
	case err == nil && v.broken:
		l.log.Info("the lead time is learned again", "pool", s.Pool)
	}
	if v.broken = err != nil; v.broken {
		return
	}
	// A pool of several kinds of hosts is as slow as its slowest.
	slowest := time.Duration(0)
	for _, t := range all {
		if len(t.Boot.Last) >= enoughBoots {
			slowest = max(slowest, t.Boot.Quantile(0.95))
		}
	}
	v.learned = slowest
}
