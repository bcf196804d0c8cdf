package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/history"
	"github.com/gpupool/gpupool/internal/promrange"
)

const (
	archiveTimeout = 30 * time.Second // of reading the history of one series
	saveAtOnce     = 4
)

// archive keeps the minutes of demand beyond this process's life: in Consul, or
// in Prometheus, which is only read.
type archive struct {
	log    hclog.Logger
	consul *consul.Client    // nil if Consul does not keep them
	prom   *promrange.Config // nil if Prometheus does not
	tally  *tally

	mu     sync.Mutex
	said   map[string]string // what was logged of a series, or of pruning
	pruned int               // the day on which old days were last removed
}

// run saves once a minute what is new, until ctx ends, and reads again what
// could not be read.
func (a *archive) run(ctx context.Context, b *book) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			a.round(ctx, b, now)
		}
	}
}

func (a *archive) round(ctx context.Context, b *book, now time.Time) {
	var group errgroup.Group
	group.SetLimit(saveAtOnce)
	for _, s := range b.all() {
		if s.record == nil {
			continue
		}
		group.Go(func() error {
			a.load(ctx, s, now)
			a.save(ctx, s, now)
			return nil
		})
	}
	_ = group.Wait() // each has logged its own
	a.prune(ctx, now)
}

// load reads the history of a series, unless it was.
func (a *archive) load(ctx context.Context, s *series, now time.Time) {
	s.mu.Lock()
	loaded := s.loaded
	s.mu.Unlock()
	if loaded {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, archiveTimeout)
	defer cancel()
	err := safely(func() error {
		if a.prom != nil {
			return a.fromPrometheus(ctx, s, now)
		}
		return a.fromConsul(ctx, s, now)
	})
	if ctx.Err() == nil || err == nil {
		a.say(s.base, "cannot read the history of a series", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loaded = err == nil
	closeOnce(s.tried)
}

func (a *archive) fromConsul(ctx context.Context, s *series, now time.Time) error {
	days, left, err := a.consul.History(ctx, s.query.Record(), history.DayOf(now)-keepDays)
	if err != nil {
		return err
	}
	for _, err := range left {
		a.tally.leftOut("history chunk")
		a.say(err.Error(), "a day of history is left out", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for day, d := range days {
		s.record.Fill(day, d)
	}
	return nil
}

// fromPrometheus reads the mean of each minute, as of its end.
func (a *archive) fromPrometheus(ctx context.Context, s *series, now time.Time) error {
	c := *a.prom
	c.Query = promQL(c.Query, s.query)
	c.Step = time.Minute
	to := now.Truncate(time.Minute)
	points, err := promrange.Ask(ctx, c, to.Add(-keepDays*24*time.Hour), to)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range points {
		s.record.FillPoint(p)
	}
	return nil
}

// save writes the minutes that are over and not known to be in Consul. Those
// that somebody else wrote come back.
func (a *archive) save(ctx context.Context, s *series, now time.Time) {
	s.mu.Lock()
	s.record.Close(now)
	days := make(map[int]*history.Day)
	for day := range s.unsaved {
		if d := s.record.Day(day); d != nil {
			days[day] = d
		}
		if day < history.DayOf(now)-keepDays {
			delete(s.unsaved, day)
		}
	}
	s.mu.Unlock()
	if a.consul == nil {
		return
	}
	var errs []error
	for day, d := range days {
		merged, err := a.consul.AddHistory(ctx, s.query.Record(), day, d)
		a.tally.saved(err)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.mu.Lock()
		s.record.Fill(day, merged)
		if day < history.DayOf(now) {
			delete(s.unsaved, day)
		}
		s.mu.Unlock()
	}
	if ctx.Err() == nil {
		slices.SortFunc(errs, func(x, y error) int { return strings.Compare(x.Error(), y.Error()) })
		a.say("save "+s.base, "cannot save the history of a series", errors.Join(errs...))
	}
}

// prune removes days that are too old, of all series, once a day.
func (a *archive) prune(ctx context.Context, now time.Time) {
	today := history.DayOf(now)
	if a.consul == nil || a.pruned == today {
		return
	}
	n, err := a.consul.PruneHistory(ctx, today-keepDays)
	if ctx.Err() == nil {
		a.say("prune", "cannot remove old history", err)
	}
	if err == nil {
		a.pruned = today
		a.log.Debug("removed old history", "chunks", n)
	}
}

// say logs an error when it begins, and when it changes.
func (a *archive) say(of, what string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	text := ""
	if err != nil {
		text = fmt.Sprint(err)
	}
	if a.said == nil {
		a.said = make(map[string]string)
	}
	if a.said[of] == text {
		return
	}
	if text == "" {
		delete(a.said, of)
		return
	}
	if len(a.said) > 4*maxSeries { // texts that change all the time
		clear(a.said)
	}
	a.said[of] = text
	a.log.Warn(what, "series", of, "error", err)
}
