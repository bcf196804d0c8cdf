package main

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/gpupool/gpupool/internal/signal"
)

// Bounds of what is sampled.
const (
	maxSeries = 500              // at a time
	forget    = 24 * time.Hour   // from when on a series that nobody asks for is sampled no more
	inUse     = 10 * time.Minute // until when it does not make room for another
)

// book is the series that are sampled.
type book struct {
	log  hclog.Logger
	fine time.Duration // how long samples are kept
	// recorded says that minutes are kept of series that are demand.
	recorded bool
	// added is called, with the book locked, with each new series.
	added func(*series)

	mu     sync.Mutex
	series map[string]*series // by base
}

// of returns the series of a query, which is sampled from now on if it was not.
func (b *book) of(q signal.Query, standing bool, now time.Time) (*series, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.series[q.Base()]
	if s == nil {
		if err := b.room(now); err != nil {
			return nil, fmt.Errorf("query %s: %w", q, err)
		}
		s = newSeries(q, b.recorded)
		b.series[s.base] = s
		b.added(s)
	}
	s.wanted(standing, now)
	return s, nil
}

// room makes room for one more, if it takes that, by forgetting what was not
// asked for in the longest time.
func (b *book) room(now time.Time) error {
	var oldest string
	last := now
	for base, s := range b.series {
		standing, asked := s.use()
		switch {
		case standing:
		case now.Sub(asked) > forget:
			delete(b.series, base)
		case asked.Before(last):
			oldest, last = base, asked
		}
	}
	switch {
	case len(b.series) < maxSeries:
		return nil
	case now.Sub(last) < inUse:
		return fmt.Errorf("%d different queries are asked already: use fewer", len(b.series))
	}
	delete(b.series, oldest)
	return nil
}

// all are the series, in the order of their queries.
func (b *book) all() []*series {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]*series, 0, len(b.series))
	for _, s := range b.series {
		out = append(out, s)
	}
	slices.SortFunc(out, func(x, y *series) int { return cmp.Compare(x.base, y.base) })
	return out
}

// seen takes values of all series that a part which was read brings new ones.
func (b *book) seen(p part, s *signal.Sight) {
	for _, one := range b.all() {
		if one.parts[p] {
			one.take(time.Now(), one.query.Value(s), b.fine, b.log)
		}
	}
}

// jobs are the jobs that have to be asked about, and agents says whether the
// agents have to.
func (b *book) needs() (jobs []signal.JobID, agents bool) {
	known := make(map[signal.JobID]bool)
	for _, s := range b.all() {
		for _, t := range s.query.Terms {
			if job, ok := t.Job(); ok && !known[job] {
				known[job] = true
				jobs = append(jobs, job)
			}
			agents = agents || t.FromAgents()
		}
	}
	return jobs, agents
}
