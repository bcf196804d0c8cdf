package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/history"
	"github.com/gpupool/gpupool/internal/signal"
)

// part is one of the things that are read on their own.
type part struct{ kind, name string }

const (
	partPool  = "pool"
	partQueue = "queue"
	partFleet = "fleet" // the agents, and the jobs that are asked about with them
)

// partsOf are the parts whose reading brings a query a new value.
func partsOf(q signal.Query) map[part]bool {
	parts := make(map[part]bool)
	for _, t := range q.Terms {
		_, job := t.Job()
		pool, ofPool := t.Pool()
		switch queue, ofQueue := t.Queue(); {
		case ofQueue:
			parts[part{partQueue, queue}] = true
		case job || t.FromAgents():
			parts[part{kind: partFleet}] = true
		}
		if ofPool { // also with agents: Nomad says which of them there must be
			parts[part{partPool, pool}] = true
		}
	}
	return parts
}

// keepDays is how long minutes are kept, besides the day that is going on.
const keepDays = 28

// series is the samples of one query, without its window: taken from the time
// of the first question on, so that questions are answered from memory.
type series struct {
	query signal.Query
	base  string // the query, written out
	parts map[part]bool

	mu       sync.Mutex
	standing bool // sampled whether or not anybody asks
	asked    time.Time
	fine     demand.Series
	err      error           // why the last reading gave no value; nil if it did
	record   *history.Record // nil where no minutes are kept
	unsaved  map[int]bool    // days with minutes that are perhaps not in the archive yet
	loaded   bool            // the archive was read

	// Closed once: when there is a first value or a reason for none, and when
	// the archive was tried.
	first, tried chan struct{}
}

func newSeries(q signal.Query, recorded bool) *series {
	s := &series{
		query: q, base: q.Base(), parts: partsOf(q), unsaved: make(map[int]bool),
		first: make(chan struct{}), tried: make(chan struct{}),
	}
	if recorded && q.Record() != "" {
		s.record = history.NewRecord(keepDays)
	} else {
		close(s.tried)
	}
	return s
}

// take adds a reading. One without a value leaves the last where it is, unless
// it is known to be more by now: then that much is. So what is missing can
// start capacity, and never stop any.
func (s *series) take(now time.Time, r signal.Reading, keep time.Duration, log hclog.Logger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	notYet := errors.Is(r.Err, signal.ErrNotYet)
	if !notYet {
		defer closeOnce(s.first)
	}
	if ahead, some := s.fine.Last(); some && ahead.At.Sub(now.Round(0)) > clockStep {
		log.Warn("the clock was set back; samples from after that time are forgotten", "query", s.base, "by", ahead.At.Sub(now.Round(0)).Round(time.Second))
		s.fine = s.fine.Window(time.Time{}, now.Round(0))
	}
	last, some := s.fine.Last()
	switch {
	case r.Err != nil && !notYet && (s.err == nil || s.err.Error() != r.Err.Error()):
		log.Warn("cannot read a signal", "query", s.base, "error", r.Err)
	case r.Err == nil && s.err != nil:
		log.Info("reading a signal again", "query", s.base)
	}
	s.err = r.Err
	if r.Err != nil && !(r.AtLeast && some && r.Value > last.Value) || some && !r.At.After(last.At) {
		return
	}
	p := demand.Point{At: r.At.Round(0), Value: r.Value} // the clock that questions are asked by
	s.fine = append(s.fine, p)
	if s.record == nil {
		s.forget(p.At.Add(-keep))
		return
	}
	s.record.Add(p)
	s.unsaved[history.DayOf(p.At)] = true
	if p.At.Sub(s.fine[0].At) > keep+retell {
		s.forget(p.At.Add(-keep).Truncate(time.Minute))
	}
}

// clockStep is how far ahead of the clock the last sample is when the clock was
// set back.
const clockStep = time.Minute

// retell is how often samples that have become old make room for minutes. It is
// seldom, because to whoever compares answers, as the decision log does, that
// changes the past.
const retell = 12 * time.Hour

// forget drops samples up to a time.
func (s *series) forget(until time.Time) {
	old := 0
	for old < len(s.fine) && !s.fine[old].At.After(until) {
		old++
	}
	s.fine = append(s.fine[:0], s.fine[old:]...)
}

// wanted notes that somebody asked.
func (s *series) wanted(standing bool, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked, s.standing = now, s.standing || standing
}

func (s *series) use() (standing bool, asked time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.standing, s.asked
}

func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// await waits for a first value and for the archive, or until ctx ends.
func (s *series) await(ctx context.Context) {
	for _, c := range []chan struct{}{s.tried, s.first} {
		select {
		case <-c:
		case <-ctx.Done():
			return
		}
	}
}

// between returns the points of a query over this series in [from, to],
// ascending and at least one. Where none falls into it, as with an instant, it
// is the last one before to. It is an error if the newest is older than hold
// at to: then nobody knows the value, and no number stands for that.
//
// The first sample of all is the answer to the question that it was taken for,
// though it came after it.
func (s *series) between(q signal.Query, from, to time.Time, hold time.Duration) (demand.Series, error) {
	instant := !from.Before(to)
	s.mu.Lock()
	if len(s.fine) > 0 {
		if late := s.fine[0].At.Sub(to); late > 0 && late < 2*firstAnswer {
			to = s.fine[0].At
		}
	}
	since := from
	if held := to.Add(-hold); held.Before(since) {
		since = held
	}
	since = since.Add(-1) // from itself is in
	samples := s.samples(since.Add(-q.Window), to)
	err := s.err
	s.mu.Unlock()

	points := q.Windowed(samples, since)
	last, ok := points.Last()
	switch {
	case !ok && err != nil:
		return nil, fmt.Errorf("%s is not known: %w", s.base, err)
	case !ok:
		return nil, fmt.Errorf("%s is not known: it has not been read yet", s.base)
	case to.Sub(last.At) > hold && err != nil:
		return nil, fmt.Errorf("%s was last known %s ago, longer than hold (%s): %w", s.base, to.Sub(last.At).Round(time.Second), hold, err)
	case to.Sub(last.At) > hold:
		return nil, fmt.Errorf("%s was last known %s ago, longer than hold (%s)", s.base, to.Sub(last.At).Round(time.Second), hold)
	}
	if inside := points.Window(from.Add(-1), to); !instant && len(inside) > 0 {
		return inside, nil
	}
	return points[len(points)-1:], nil
}

// samples are the samples of (from, to]: fine ones, and minutes where there is
// none of them.
func (s *series) samples(from, to time.Time) demand.Series {
	if s.record == nil {
		return append(demand.Series(nil), s.fine.Window(from, to)...)
	}
	return s.record.Merge(from, to, s.fine)
}
