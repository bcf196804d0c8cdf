package faults

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var (
	tries       = flag.Int("tries", 20000, "schedules in which the loss of a rule must show")
	withMutants = flag.Bool("mutants", false, "remove each rule in turn and show that a test fails; takes minutes")
)

const (
	reconcile = "../../pool/reconcile.go"
	phase     = "../../pool/phase.go"
	check     = "../../pool/check.go"
	limits    = "../../pool/host.go"
	loop      = "../loop.go"
)

// mutant is a rule that is gone: in file, old is replaced by new.
type mutant struct {
	rule     string
	file     string
	old, new string
}

// rules are those of Reconcile, PhaseOf and the loop. Each is removed together
// with Check as a whole, so that what fails is the world and not a second
// opinion on the same sight.
var rules = []mutant{
	{"a host with work is not chosen, nor drained, nor powered off", phase, `if n := len(v.Node.Work); n > 0 {`, `if n := len(v.Node.Work); n > 99 {`},
	{"processes outside Nomad keep a host on", phase, `case v.Agent.Outside > 0:`, `case v.Agent.Outside > 99:`},
	{"a silent agent keeps a host on", phase, "	case !passing:\n		return false", "	case false:\n		return false"},
	{"an agent is heard where no client has joined", reconcile, `return h.Node.Status != NodeReady && !busy`, `return h.Node.Status != NodeReady || busy && false`},
	{"ineligible, then look again, then drain", phase, `return v.NodeAt.After(t) && v.PowerAt.After(t)`, `return true || v.NodeAt.After(t) && v.PowerAt.After(t)`},
	{"drain before soft off", phase, `return v.Node.Mark == MarkOurs && !v.Node.Draining && v.Verb != Cordon`, `return true`},
	{"the fence after an unknown outcome", phase, `return i.At.Add(l.Fence)`, `return i.At`},
	{"a foreign drain is held", phase, `n.Draining || v.Verb != VerbNone && !v.Intent.Foreign`, `false`},
	{"a foreign ineligibility is held", phase, `return true, "made ineligible by somebody else"`, `return false, ""`},
	{"a give-back is repeated until it is on record", reconcile, `if h.Verb == Enable && !h.givenBack() {`, `if false {`},
	{"most that boot", reconcile, `if r.count[Booting] >= r.l.MaxBooting {`, `if r.count[Booting] >= r.l.MaxBooting+9 {`},
	{"most that drain", reconcile, `r.count[Draining] >= r.l.MaxDraining`, `r.count[Draining] >= r.l.MaxDraining+9`},
	{"most in service", reconcile, `min(max(want+l.Spare, l.Min), l.most(len(s.Hosts)))`, `max(want+l.Spare, l.Min)`},
	{"the floor", reconcile, `surplus := r.count[Ready] - r.d.Want`, `surplus := r.count[Ready] - r.d.Want + 1`},
	{"stagger of power-ons", reconcile, `wait := r.l.Stagger - r.now.Sub(r.lastOn); wait > 0`, `wait := r.l.Stagger - r.now.Sub(r.lastOn); wait > 0 && false`},
	{"stagger of soft offs", reconcile, `if r.now.Sub(r.lastOff) >= r.l.Stagger {`, `if true {`},
	{"least time on", reconcile, `!h.OnAt.IsZero() && on < r.l.MinOn`, `!h.OnAt.IsZero() && on < 0`},
	{"budget of cycles", reconcile, `r.l.CycleBudget > 0 && h.cyclesToday(r.now) >= r.l.CycleBudget`, `r.l.CycleBudget > 99 && h.cyclesToday(r.now) >= 99`},
	{"the ledger goes from intent to intent", limits, `l.OnAt, l.Cycles = now, l.cyclesToday(now)+1`, `l.OnAt, l.Cycles = now, 1`},
	{"warm before cold", reconcile, `case h.free:
			now = append(now, h)`, `case h.free:
			_ = now`},
	{"hard off only after the soft off had its time", reconcile, `if r.now.Sub(h.Intent.At) < r.l.SoftOffTimeout {`, `if false {`},
	{"hard off only by policy", reconcile, `if r.l.HardOff || h.FailedBoots > 0 && h.Node.Status != NodeReady {`, `if true {`},
	{"an open soft off does not count", reconcile, `if h.Verb == SoftOff && h.SettledAt.IsZero() {`, `if false {`},
	{"a host that does not boot is given up", reconcile, "} else if h.Overdue {\n", "} else if false {\n"},
	{"a failed boot is ineligible before it goes off", reconcile, "	case h.Node.Eligible:\n		r.record(h, Cordon, why, ledger)", "	case false:\n		r.record(h, Cordon, why, ledger)"},
	{"one that does not shut down is pressed", reconcile, "r.pressOn(h)\n", "_ = h\n"},
	{"a late boot counts at once", reconcile, `r.d.Have = r.count[Ready] + r.count[Booting] // with those that come late`, `r.d.Have = len(r.hosts) - len(r.hosts) + r.d.Ready`},
	{"a former life's readiness is not joining", phase, `return v.Node.Status == NodeReady && !former`, `return v.Node.Status == NodeReady || former`},
	{"a node that beats all the while is there", phase, `&& !v.overdue(now, l)`, ``},
	{"the lease before each act", loop, `if !held || g != gen || until.Sub(now) < l.cfg.ActTimeout {`, `if _ = gen; false && held && g == 0 && until.IsZero() {`},
	{"record before act", loop, "	intent, err := l.cfg.Store.Record(ctx, a.Host, intent)\n	if err != nil {", "	intent, err := l.cfg.Store.Record(ctx, a.Host, intent)\n	if false && err != nil {"},
	{"acts end in time", loop, `ctx, cancel := context.WithTimeout(ctx, l.cfg.ActTimeout)`, `ctx, cancel := context.WithTimeout(ctx, 20*l.cfg.ActTimeout)`},
	{"memory is read before sight", loop, `s.Hosts[i].Intent = intents[s.Hosts[i].Host.ID]`, `s.Hosts[i].Intent = intents[s.Hosts[0].Host.ID]`},
}

// laws are those of Check. Reconcile keeps them too, so what notices that one
// is gone is its own table of unsafe actions.
var laws = []mutant{
	{"no such host", check, `if !known {`, `if !known { continue }; if false {`},
	{"one action a host", check, `if seen[a.Host] {`, `if false {`},
	{"not Unknown, not Held", check, `case Unknown, Held:`, `case Phase(99):`},
	{"looked at since", check, `!v.NodeAt.After(t) || !v.PowerAt.After(t)`, `false && t.IsZero()`},
	{"fresh sight", check, `if c.now.Sub(v.NodeAt) > c.l.StaleAfter {`, `if false {`},
	{"power-on: read as off", check, `v.Power == PowerOff && c.now.Sub(v.PowerAt) <= c.l.StaleAfter, "its`, `true, "its`},
	{"power-on: quarantine", check, `c.phase[a.Host] != Quarantined`, `true`},
	{"power-on: budget", check, `c.l.CycleBudget == 0 || v.cyclesToday(c.now) < c.l.CycleBudget`, `true`},
	{"power-on: ledger", check, `a.Ledger.OnAt.Equal(c.now) && a.Ledger.Cycles > 0`, `true`},
	{"enable: node ready", check, `node.Status == NodeReady, "its node is not ready"`, `true, "its node is not ready"`},
	{"enable: registered since", check, `v.Verb != TurnOn || node.Index == 0 || node.Index > v.Intent.NodeIndex || v.overdue(c.now, c.l)`, `true`},
	{"enable: not while it shuts down", check, `v.Verb != SoftOff && v.Verb != HardOff, "it is shutting down"`, `true, "it is shutting down"`},
	{"cordon: in service", check, `c.phase[a.Host] == Ready || c.neverJoined(v), "it is not in service"`, `true, "it is not in service"`},
	{"cordon: least time on", check, `v.OnAt.IsZero() || c.now.Sub(v.OnAt) >= c.l.MinOn || c.neverJoined(v)`, `true`},
	{"drain: ineligible", check, `!node.Eligible, "it is still eligible, so work may land on it"`, `true, "it is still eligible"`},
	{"off: work", check, "	node := v.Node\n	c.require(a, len(node.Work) == 0, \"it has work\")", "	node := v.Node\n"},
	{"off: eligible", check, `!node.Eligible, "it is eligible, so work may land on it"`, `true, "it is eligible"`},
	{"off: drain ended", check, `!node.Draining, "its drain`, `true, "its drain`},
	{"off: our drain", check, `node.Mark == MarkOurs || v.Verb == SoftOff || v.Verb == HardOff || c.neverJoined(v)`, `true`},
	{"off: power read", check, `v.Power != PowerUnknown && c.now.Sub(v.PowerAt) <= c.l.StaleAfter`, `true`},
	{"off: agent passing", check, `passing || c.l.Agent == AgentOptional, "its agent does`, `true, "its agent does`},
	{"off: outside work", check, `!passing || v.Agent.Outside == 0 || c.l.Agent == AgentNone`, `true`},
	{"off: blind agent", check, `c.l.Agent == AgentOptional || v.Agent.Blind == ""`, `true`},
	{"soft off: ledger", check, `a.Ledger.OffAt.Equal(c.now), "it`, `true, "it`},
	{"hard off: policy", check, `c.l.HardOff || v.FailedBoots > 0 && node.Status != NodeReady`, `true`},
	{"hard off: asked before", check, `v.Verb == SoftOff && !v.SettledAt.IsZero() || v.Verb == HardOff, "it was`, `true, "it was`},
	{"hard off: its time", check, `c.now.Sub(v.Intent.At) >= c.l.SoftOffTimeout, "it still`, `true, "it still`},
	{"together: booting", check, `booting+on > c.l.MaxBooting {`, `false {`},
	{"together: draining", check, `draining+cordon > c.l.MaxDraining {`, `false {`},
	{"together: most", check, `ready+booting+on > c.l.most(len(c.views)) {`, `false {`},
	{"together: floor", check, `ready-cordon < min(floor, c.l.most(len(c.views))) {`, `false {`},
	{"together: stagger on", check, `(on > 1 || c.now.Sub(lastOn) < c.l.Stagger)`, `false`},
	{"together: stagger off", check, `(off > 1 || c.now.Sub(lastOff) < c.l.Stagger)`, `false`},
	{"together: warm first", check, `if on > 0 && callBack > 0 {`, `if false {`},
}

// blindCheck turns Check off.
var blindCheck = mutant{"Check", check, "	c.each(actions)\n", "	return nil\n"}

// TestMutantsAreCurrent: what a mutant replaces is there, once. Without this
// the table would rot between nights.
func TestMutantsAreCurrent(t *testing.T) {
	for _, m := range append(append([]mutant{blindCheck}, rules...), laws...) {
		if _, err := m.apply(nil); err != nil {
			t.Error(err)
		}
	}
}

// apply is the file without the rule; on what an earlier mutant made of it, if
// it did.
func (m mutant) apply(source []byte) ([]byte, error) {
	if source == nil {
		var err error
		if source, err = os.ReadFile(m.file); err != nil {
			return nil, err
		}
	}
	if n := strings.Count(string(source), m.old); n != 1 {
		return nil, fmt.Errorf("%s: %q is %d times in %s, want once", m.rule, m.old, n, m.file)
	}
	return []byte(strings.Replace(string(source), m.old, m.new, 1)), nil
}

// TestMutants removes one rule after the other and runs the tests that must
// notice.
func TestMutants(t *testing.T) {
	if !*withMutants {
		t.Log("run with -mutants; make nightly does")
		return
	}
	t.Logf("%-62s %s", "removed", "noticed")
	for _, m := range rules {
		out, failed := underMutants(t, []mutant{blindCheck, m}, ".", "-run", "TestSchedules", "-args", "-schedules", fmt.Sprint(*tries), "-failures", "1")
		report(t, m, out, failed)
	}
	for _, m := range laws {
		out, failed := underMutants(t, []mutant{m}, "../../pool", "-run", "TestCheckRefuses")
		report(t, m, out, failed)
	}
}

func report(t *testing.T, m mutant, out string, failed bool) {
	t.Helper()
	switch {
	case strings.Contains(out, "[build failed]"):
		t.Errorf("%s: does not compile:\n%s", m.rule, out)
	case !failed:
		t.Errorf("%-62s NOT NOTICED", m.rule)
	default:
		t.Logf("%-62s %s", m.rule, notice(out))
	}
}

// notice is the first thing that a failed run complains of.
func notice(out string) string {
	for line := range strings.Lines(out) {
		if _, rest, ok := strings.Cut(line, "_test.go:"); ok {
			_, rest, _ = strings.Cut(rest, ": ")
			rest, _, _ = strings.Cut(strings.Trim(strings.TrimSpace(rest), `[]"`), `" "`)
			return rest[:min(len(rest), 110)]
		}
	}
	return strings.TrimSpace(out[:min(len(out), 110)])
}

// underMutants runs go test on a package as if rules were gone.
func underMutants(t *testing.T, gone []mutant, pkg string, args ...string) (string, bool) {
	t.Helper()
	dir := t.TempDir()
	changed := map[string][]byte{}
	replace := map[string]string{}
	for i, m := range gone {
		file, err := filepath.Abs(m.file)
		if err != nil {
			t.Fatal(err)
		}
		source, err := m.apply(changed[file])
		if err != nil {
			t.Fatal(err)
		}
		changed[file] = source
		replace[file] = filepath.Join(dir, fmt.Sprintf("%d.go", i))
		if err := os.WriteFile(replace[file], source, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(path, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", append([]string{"test", "-vet=off", "-count=1", "-overlay", path, pkg}, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err != nil
}
