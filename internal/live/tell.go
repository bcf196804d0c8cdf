package live

import (
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/control"
	"github.com/gpupool/gpupool/internal/pool"
)

// again is how long something that goes on is not said again, in the log or in
// the status record.
const again = time.Minute

// teller tells operators how a pool stands: what changes, to the log, and the
// whole picture to Consul for `gpupool status`. What goes wrong at every tick
// is logged once a minute, whatever its words.
type teller struct {
	log hclog.Logger

	hosts []pool.Status        // as last told
	since map[string]time.Time // by host, when its phase began
	note  string               // as last told

	failed map[string]failure // by host, its last action while that fails
	logged time.Time          // when trouble was last logged; zero while there is none
	begun  time.Time          // when it began

	last      consul.Status // as last told
	behind    bool          // the status record does not show it
	published time.Time     // when it was last written
	unwritten bool          // the last try failed, and that was logged
}

// failure is an action that does not succeed.
type failure struct {
	do pool.Verb
	at time.Time // when it was last logged
}

func newTeller(log hclog.Logger) *teller {
	return &teller{log: log, since: map[string]time.Time{}, failed: map[string]failure{}}
}

// trouble is a tick that decided nothing. Who reads the status sees what was
// last decided, and why nothing is now.
func (t *teller) trouble(err error, publish func(consul.Status) error) {
	now := time.Now()
	if t.begun.IsZero() {
		t.begun = now
	}
	if now.Sub(t.logged) < again {
		return
	}
	t.logged = now
	args := []any{"error", err}
	if b := (*bug)(nil); errors.As(err, &b) {
		args = append(args, "stack", b.stack)
	}
	t.log.Error("no decision", args...)
	if t.last.At.IsZero() {
		return // the record of who decided last says more
	}
	t.last.Note = "nothing is decided: " + err.Error()
	t.write(publish)
}

// idle is a tick in which another process acts.
func (t *teller) idle() { t.begun, t.logged = time.Time{}, time.Time{} }

// report is a tick that decided.
func (t *teller) report(r control.Report, publish func(consul.Status) error) {
	if !t.begun.IsZero() {
		t.log.Info("deciding again", "after", time.Since(t.begun).Round(time.Second))
		t.idle()
		t.behind = true
	}
	t.phases(r)
	for _, o := range r.Outcomes {
		t.outcome(o, r.Gen)
	}
	if note := r.Decision.Note; note != t.note {
		t.note, t.behind = note, true
		if note != "" {
			t.log.Info("note", "note", note)
		}
	}
	t.behind = t.behind || len(r.Outcomes) > 0
	t.last = t.status(r)
	if t.behind || time.Since(t.published) >= again {
		t.write(publish)
	}
}

// write replaces the status record.
func (t *teller) write(publish func(consul.Status) error) {
	err := publish(t.last)
	if err != nil && !t.unwritten {
		t.log.Warn("cannot write the status, so `gpupool status` shows an old one", "error", err)
	}
	t.behind, t.unwritten = err != nil, err != nil
	if err == nil {
		t.published = time.Now()
	}
}

// phases logs one line for each host whose phase changed.
func (t *teller) phases(r control.Report) {
	was := make(map[string]pool.Phase, len(t.hosts))
	for _, h := range t.hosts {
		was[h.ID] = h.Phase
	}
	for _, h := range r.Decision.Hosts {
		from, known := was[h.ID]
		if known && from == h.Phase {
			continue
		}
		t.since[h.ID] = r.At
		t.log.Info("phase", "host", h.ID, "from", from.String(), "to", h.Phase.String(), "why", h.Why, "power", h.Power.String())
	}
	t.behind = t.behind || !slices.Equal(t.hosts, r.Decision.Hosts)
	t.hosts = r.Decision.Hosts
}

func (t *teller) outcome(o control.Outcome, gen uint64) {
	if o.Done {
		delete(t.failed, o.Host)
		t.log.Info("did", "host", o.Host, "do", o.Do.String(), "why", o.Why, "gen", gen)
		return
	}
	if f := t.failed[o.Host]; f.do == o.Do && time.Since(f.at) < again {
		return
	}
	t.failed[o.Host] = failure{o.Do, time.Now()}
	t.log.Warn("could not", "host", o.Host, "do", o.Do.String(), "why", o.Why, "gen", gen, "error", o.Err)
}

func (t *teller) status(r control.Report) consul.Status {
	s := consul.Status{Want: r.Want, At: r.At, Note: r.Decision.Note}
	for _, v := range r.Snapshot.Hosts {
		if v.Self {
			s.Self = v.Host.ID
		}
	}
	for _, h := range r.Decision.Hosts {
		s.Hosts = append(s.Hosts, consul.HostStatus{
			ID: h.ID, Power: h.Power.String(), Phase: h.Phase.String(), GPUs: h.GPUs, GPUsBusy: h.GPUsBusy,
			Why: h.Why, Since: t.since[h.ID], Class: h.Class, Watts: h.Watts,
		})
		s.Watts += h.Watts
	}
	return s
}
