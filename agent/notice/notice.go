// Package notice hears that a host will be taken away: a spot instance that its
// provider wants back, maintenance of the machine beneath, or an operator's own
// word. What is to be done about it is [Leaver]'s.
//
// Each kind of place to ask is a row of [Kinds] and a file of its own.
package notice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// Notice is one announcement.
type Notice struct {
	// ID tells it from others of its source, and stays the same while it is
	// repeated.
	ID string
	// By is when the host may be gone; zero is at any moment.
	By time.Time
	// What will happen, as one sentence without a full stop.
	What string
	// Likely is a host that may well stay. Nothing is done about it: it is
	// there for people and for their own automation to see.
	Likely bool
}

// Source is a place to ask. Look returns what is announced now, and nothing
// when all is well. An error means that nobody knows.
type Source interface {
	Look(ctx context.Context) ([]Notice, error)
}

// Kind is a kind of source, as operators name it.
type Kind struct {
	Name string
	Doc  string
	// New makes a source of it, with what follows the colon in the setting.
	New func(arg string) (Source, error)
}

// Kinds are all of them. A new one is a file and a row here.
var Kinds = []Kind{
	{"aws", "EC2: the spot interruption notice (two minutes), the rebalance recommendation and scheduled events, by IMDSv2.", newAWS},
	{"gcp", "Compute Engine: preemption (thirty seconds) and host maintenance.", newGCP},
	{"azure", "Azure: scheduled events of this machine, preemption included (thirty seconds).", newAzure},
	{"file", "`file:PATH`: the host leaves while the file is there. It may hold a notice, see below; an empty one means at any moment.", newFile},
	{"http", "`http://HOST/PATH` or `https://…`: the host leaves while the answer is 200 with a notice, as in a file; 204 and 404 mean that all is well.", newHook},
}

// Parse makes the source that a setting names: aws, file:/run/leave and so on.
func Parse(setting string) (Source, error) {
	name, arg, _ := strings.Cut(setting, ":")
	if name == "https" {
		name = "http"
	}
	i := slices.IndexFunc(Kinds, func(k Kind) bool { return k.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("source of notices %.80q: want aws, gcp, azure, file:PATH or http://HOST/PATH", setting)
	}
	if Kinds[i].Name == "http" {
		arg = setting
	}
	s, err := Kinds[i].New(arg)
	if err != nil {
		return nil, fmt.Errorf("source of notices %.80q: %w", setting, err)
	}
	return s, nil
}

// Config is what a [Watch] needs.
type Config struct {
	// Sources by the setting that names them.
	Sources map[string]Source
	// Period is the time between looks; 5 s, which EC2 asks for.
	Period time.Duration
	Log    *slog.Logger
}

const (
	// lookTimeout bounds one look. Metadata services answer in milliseconds.
	lookTimeout = 2 * time.Second
	// maxNotices bounds what one source may say.
	maxNotices = 32
)

// Watch asks its sources again and again. What a source said stands until the
// same source says otherwise: one that cannot be asked takes nothing back.
type Watch struct {
	cfg     Config
	changed chan struct{}

	mu    sync.Mutex
	heard map[string][]Notice // by source; one is there once it was asked well
	errs  map[string]error
}

// New makes a watch, which does nothing until Run.
func New(cfg Config) *Watch {
	if cfg.Period == 0 {
		cfg.Period = 5 * time.Second
	}
	return &Watch{cfg: cfg, changed: make(chan struct{}, 1), heard: map[string][]Notice{}, errs: map[string]error{}}
}

// Changed gets a value after what is announced has changed.
func (w *Watch) Changed() <-chan struct{} { return w.changed }

// Now is what is announced: the earliest first, one without a time before all.
func (w *Watch) Now() []Notice {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []Notice
	for _, name := range slices.Sorted(maps.Keys(w.heard)) {
		all = append(all, w.heard[name]...)
	}
	slices.SortStableFunc(all, func(a, b Notice) int { return a.By.Compare(b.By) })
	return all
}

// Errors are why sources cannot be asked now, by source.
func (w *Watch) Errors() map[string]error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.errs)
}

// settled reports whether every source was asked with success once.
func (w *Watch) settled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.heard) == len(w.cfg.Sources)
}

// Run watches until ctx ends.
func (w *Watch) Run(ctx context.Context) {
	var all sync.WaitGroup
	for name, s := range w.cfg.Sources {
		all.Go(func() { w.follow(ctx, name, s) })
	}
	all.Wait()
}

func (w *Watch) follow(ctx context.Context, name string, s Source) {
	for {
		w.look(ctx, name, s)
		wait := time.Duration(float64(w.cfg.Period) * (0.9 + 0.2*rand.Float64()))
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (w *Watch) look(ctx context.Context, name string, s Source) {
	lookCtx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	now, err := s.Look(lookCtx)
	if ctx.Err() != nil {
		return
	}
	if err == nil && len(now) > maxNotices {
		err = fmt.Errorf("%d notices at once, more than %d", len(now), maxNotices)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		if w.errs[name] == nil {
			w.cfg.Log.Warn("cannot ask whether the host will be taken away", "source", name, "error", err)
		}
		w.errs[name] = err
		return
	}
	if w.errs[name] != nil {
		w.cfg.Log.Info("it can be asked again whether the host will be taken away", "source", name)
		delete(w.errs, name)
	}
	before, asked := w.heard[name]
	w.heard[name] = now
	if asked && slices.Equal(now, before) {
		return
	}
	for _, n := range now {
		if !slices.Contains(before, n) {
			w.cfg.Log.Warn("the host will be taken away", "source", name, "what", n.What, "by", by(n))
		}
	}
	if len(now) == 0 && asked {
		w.cfg.Log.Info("the host stays", "source", name)
	}
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// by is when, for a log.
func by(n Notice) string {
	if n.By.IsZero() {
		return "any moment"
	}
	return n.By.UTC().Format(time.RFC3339)
}

// errAnswer is an answer that nobody can make sense of.
var errAnswer = errors.New("unexpected answer")
