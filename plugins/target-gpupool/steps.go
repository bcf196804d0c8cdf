package main

import (
	"encoding/json"
	"math"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/gpupool/gpupool/internal/control"
	"github.com/gpupool/gpupool/internal/jsonl"
	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/version"
)

const (
	stepsMagic   = "gpupool-steps"
	stepsVersion = 1

	maxPerLine = 500         // phases in one line
	errorAgain = time.Minute // after which a tick that cannot decide is told again
	maxError   = 1 << 10     // bytes
)

// step is what one tick decided, as a line of the decision log.
type step struct {
	Pool    string       `json:"pool"`
	At      time.Time    `json:"at"`
	Gen     uint64       `json:"gen,omitempty"`   // generation of the lease
	Error   string       `json:"error,omitempty"` // why nothing could be decided; nothing else is said then
	Want    int          `json:"want"`            // as the loop corrected it
	Have    int          `json:"have"`
	Ready   int          `json:"ready"`
	Note    string       `json:"note,omitempty"`
	Phases  []transition `json:"phases,omitempty"` // of hosts whose phase changed
	Actions []act        `json:"actions,omitempty"`
	Learned []learned    `json:"learned,omitempty"`
	Lost    int          `json:"lost,omitempty"` // ticks before this one that were not written
}

type transition struct {
	Host  string `json:"host"`
	From  string `json:"from,omitempty"` // empty for a host that this process sees for the first time
	To    string `json:"to"`
	Power string `json:"power"`
	Why   string `json:"why,omitempty"`
}

type act struct {
	Host   string `json:"host"`
	Do     string `json:"do"`
	Why    string `json:"why"`
	Result string `json:"result"` // done, failed or unclear
	Error  string `json:"error,omitempty"`
}

type learned struct {
	Host  string  `json:"host"`
	Class string  `json:"class,omitempty"`
	Stage string  `json:"stage"`
	Took  float64 `json:"took_s"`
}

// steps is the decision log of the target. A nil one keeps none.
type steps struct {
	log *jsonl.Log[[]step]

	mu    sync.Mutex
	pools map[string]*told
}

// told is what the log has of a pool.
type told struct {
	phases map[string]pool.Phase
	want   int
	note   string
	failed time.Time // when a tick that could not decide was last told; zero if the last one could
}

func newSteps(c jsonl.Config, log hclog.Logger) *steps {
	if c.Path == "" {
		return nil
	}
	c.Report = func(err error) {
		if err == nil {
			log.Info("decisions are recorded again", "file", c.Path)
			return
		}
		log.Error("decisions are made but not recorded, until said otherwise", "error", err)
	}
	return &steps{log: jsonl.Open(c, jsonl.Format[[]step]{Begin: beginSteps, Encode: encodeSteps}), pools: map[string]*told{}}
}

func (l *steps) close() {
	if l != nil {
		l.log.Close()
	}
}

// told records a tick that decided something new, and begins of trouble. It
// never waits for the file.
func (l *steps) told(name string, r control.Report, err error) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.pools[name]
	if t == nil {
		t = &told{phases: map[string]pool.Phase{}, want: math.MinInt}
		l.pools[name] = t
	}
	lines := t.next(name, r, err, time.Now())
	if len(lines) > 0 {
		l.log.Add(lines)
	}
}

// next is what is new of a tick, as lines of bounded length.
func (t *told) next(name string, r control.Report, err error, now time.Time) []step {
	if err != nil {
		if now.Sub(t.failed) < errorAgain {
			return nil
		}
		t.failed = now
		return []step{{Pool: name, At: now.UTC(), Error: clip(err.Error())}}
	}
	d := r.Decision
	s := step{Pool: name, At: r.At.UTC(), Gen: r.Gen, Want: d.Want, Have: d.Have, Ready: d.Ready, Note: d.Note}
	for _, h := range d.Hosts {
		from, known := t.phases[h.ID]
		if known && from == h.Phase {
			continue
		}
		tr := transition{Host: h.ID, To: h.Phase.String(), Power: h.Power.String(), Why: h.Why}
		if known {
			tr.From = from.String()
		}
		t.phases[h.ID] = h.Phase
		s.Phases = append(s.Phases, tr)
	}
	for _, o := range r.Outcomes {
		a := act{Host: o.Host, Do: o.Do.String(), Why: o.Why, Result: result(o)}
		if o.Err != nil {
			a.Error = clip(o.Err.Error())
		}
		s.Actions = append(s.Actions, a)
	}
	for _, k := range r.Learned {
		s.Learned = append(s.Learned, learned{k.Host, k.Class, k.Stage.String(), math.Round(k.Took.Seconds()*1000) / 1000})
	}
	same := t.want == d.Want && t.note == d.Note && t.failed.IsZero() &&
		len(s.Phases)+len(s.Actions)+len(s.Learned) == 0
	t.want, t.note, t.failed = d.Want, d.Note, time.Time{}
	if same {
		return nil
	}
	return s.cut()
}

// cut makes several lines of one that has too many parts.
func (s step) cut() []step {
	var lines []step
	for len(s.Phases) > maxPerLine || len(s.Actions) > maxPerLine {
		part := s
		part.Learned = nil
		part.Phases, s.Phases = split(s.Phases)
		part.Actions, s.Actions = split(s.Actions)
		lines = append(lines, part)
	}
	return append(lines, s)
}

func split[T any](all []T) (head, rest []T) {
	n := min(len(all), maxPerLine)
	return all[:n:n], all[n:]
}

func clip(s string) string {
	if len(s) <= maxError {
		return s
	}
	return s[:maxError] + "..."
}

func beginSteps() ([]byte, error) {
	head, err := json.Marshal(struct {
		Log     string    `json:"log"`
		Version int       `json:"version"`
		Program string    `json:"program"`
		Opened  time.Time `json:"opened"`
	}{stepsMagic, stepsVersion, "gpupool " + version.String(), time.Now().UTC()})
	return append(head, '\n'), err
}

func encodeSteps(lines []step, lost int) ([]byte, error) {
	var out []byte
	for i, s := range lines {
		if i == 0 {
			s.Lost = lost
		}
		text, err := json.Marshal(s)
		if err != nil {
			return nil, err
		}
		out = append(append(out, text...), '\n')
	}
	return out, nil
}

// observer is who hears of a pool's ticks and of the calls of its power
// drivers.
func observe(name string, m *meter, l *steps) (tick func(control.Report, error), timed func(string, time.Duration, error)) {
	return func(r control.Report, err error) {
			m.told(name, r, err)
			l.told(name, r, err)
		}, func(call string, took time.Duration, err error) {
			m.timed(name, call, took, err)
		}
}
