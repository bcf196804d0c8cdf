package main

import (
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/sdk"

	"github.com/gpupool/gpupool/internal/plan"
	"github.com/gpupool/gpupool/internal/record"
	"github.com/gpupool/gpupool/internal/strategy"
)

// decisionLogs are the open decision logs, one for each file: checks may share
// one.
type decisionLogs struct {
	log  hclog.Logger
	mu   sync.Mutex
	open map[string]*record.Log // by path
}

// add records a decision where the check's settings say so. It never waits for
// the file.
func (l *decisionLogs) add(s strategy.Settings, check *sdk.ScalingPolicyCheck, in plan.Input, d plan.Decision) {
	if s.Log.Path == "" {
		return
	}
	e := record.Entry{Stream: record.Stream{Pool: s.Pool}, Input: in, Rules: s.Rules, Decision: d}
	if check != nil {
		e.Check, e.Query = check.Name, check.Query
	}
	l.get(s.Log).Add(e)
}

// get is the log at that path. Checks that share a file and want it of another
// size get what the first asked for.
func (l *decisionLogs) get(cfg record.Config) *record.Log {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o := l.open[cfg.Path]; o != nil {
		return o
	}
	if l.open == nil {
		l.open = map[string]*record.Log{}
	}
	cfg.Report = func(err error) {
		if err == nil {
			l.log.Info("decisions are recorded again", "file", cfg.Path)
			return
		}
		l.log.Error("decisions are made but not recorded, until said otherwise", "error", err)
	}
	o := record.Open(cfg)
	l.open[cfg.Path] = o
	return o
}

// close writes what is queued and lets go of the files.
func (l *decisionLogs) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.open {
		o.Close()
	}
	l.open = nil
}
