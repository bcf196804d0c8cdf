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
	grow      = "../../pool/grow.go"
	shrink    = "../../pool/shrink.go"
	order     = "../../pool/order.go"
	supply    = "../../pool/supply.go"
	limits    = "../../pool/limits.go"
	phase     = "../../pool/phase.go"
	check     = "../../pool/check.go"
	host      = "../../pool/host.go"
	loop      = "../loop.go"
)

// mutant is a rule that is gone: in file, old is replaced by new.
type mutant struct {
	rule     string
	file     string
	old, new string
	also     []mutant // where the same rule stands too
}

const (
	mustMove = `if l.DrainWork != DrainServices || a.Type != service {`
	mayMove  = `if false {`
)

// rules are those of Reconcile, PhaseOf and the loop. Each is removed together
// with Check as a whole, so that what fails is the world and not a second
// opinion on the same sight.
var rules = []mutant{
	{rule: "a host with work that must stay is not chosen", file: phase, old: mustMove, new: mayMove},
	{rule: "a host with work is not powered off", file: reconcile, old: `if h.loaded() || h.Node.Eligible`, new: `if h.Node.Eligible`, also: []mutant{
		{file: phase, old: `return unused && len(v.Node.Work) == 0`, new: `return unused`},
		{file: reconcile, old: `case h.drained() && h.loaded():`, new: `case false:`},
	}},
	{rule: "processes outside Nomad keep a host on", file: phase, old: `case v.Agent.Outside > 0:`, new: `case v.Agent.Outside > 99:`},
	{rule: "a silent agent keeps a host on", file: phase, old: "	case !passing:\n		return false", new: "	case false:\n		return false"},
	{rule: "an agent is heard where no client has joined", file: reconcile, old: `return h.Node.Status != NodeReady && !busy`, new: `return h.Node.Status != NodeReady || busy && false`},
	{rule: "ineligible, then look again, then drain", file: phase, old: `return v.NodeAt.After(t) && v.PowerAt.After(t)`, new: `return true || v.NodeAt.After(t) && v.PowerAt.After(t)`},
	{rule: "drain before soft off", file: phase, old: `return v.Node.Mark == MarkOurs && !v.Node.Draining && v.Verb != Cordon`, new: `return true`},
	{rule: "the fence after an unknown outcome", file: phase, old: `return i.At.Add(l.Fence)`, new: `return i.At`},
	{rule: "a foreign drain is held", file: phase, old: `n.Draining || v.Verb != VerbNone && !v.Intent.Foreign`, new: `false`},
	{rule: "a foreign ineligibility is held", file: phase, old: `return true, "made ineligible by somebody else"`, new: `return false, ""`},
	{rule: "a give-back is repeated until it is on record", file: reconcile, old: `if h.Verb == Enable && !h.givenBack() && !h.Said.leave() {`, new: `if false {`},
	{rule: "most that boot", file: grow, old: `if r.booting >= r.l.MaxBooting {`, new: `if r.booting >= r.l.MaxBooting+9 {`},
	{rule: "most that drain", file: shrink, old: `if surplus == 0 || r.draining >= r.l.MaxDraining {`, new: `if surplus == 0 {`},
	{rule: "most in service", file: reconcile, old: `most := min(len(s.Hosts), l.Max)`, new: `most := len(s.Hosts)`},
	{rule: "the floor", file: shrink, old: `surplus := r.ready - r.d.Want`, new: `surplus := r.ready - r.d.Want + 1`},
	{rule: "stagger of power-ons", file: grow, old: `} else if r.now.Sub(r.lastOn) < r.l.Stagger {`, new: `} else if false {`},
	{rule: "stagger of offs", file: reconcile, old: `if r.now.Sub(r.lastOff) >= r.l.Stagger {`, new: `if true {`},
	{rule: "least time on", file: phase, old: `return !v.OnAt.IsZero() && now.Sub(v.OnAt) < l.MinOn`, new: `return false`},
	{rule: "budget of cycles", file: grow, old: `if r.l.CycleBudget > 0 && h.cycles >= r.l.CycleBudget {`, new: `if false {`},
	{rule: "the ledger goes from intent to intent", file: host, old: `l.OnAt, l.Cycles = now, l.cyclesToday(now)+1`, new: `l.OnAt, l.Cycles = now, 1`},
	{rule: "warm before cold", file: grow, old: `if h.called = true; h.free {`, new: `if h.called = true; false {`},
	{rule: "hard off only after the soft off had its time", file: reconcile, old: `case r.now.Sub(h.Intent.At) < r.l.SoftOffTimeout:`, new: `case false:`},
	{rule: "hard off only by policy", file: reconcile, old: `case r.l.HardOff || h.FailedBoots > 0 && h.Node.Status != NodeReady:`, new: `case true:`},
	{rule: "an open soft off does not count", file: reconcile, old: `case h.Verb == SoftOff && h.SettledAt.IsZero():`, new: `case false:`},
	{rule: "a host that does not boot is given up", file: reconcile, old: "} else if h.Overdue {\n", new: "} else if false {\n"},
	{rule: "a failed boot is ineligible before it goes off", file: reconcile, old: "	case h.Node.Eligible:\n		r.record(h, Cordon, why, ledger)", new: "	case false:\n		r.record(h, Cordon, why, ledger)"},
	{rule: "one that does not shut down is pressed", file: reconcile, old: "r.pressOn(h)\n", new: "_ = h\n"},
	{rule: "a late boot counts at once", file: reconcile, old: `r.d.Have = r.have() // with those that come late, and without those that leave`, new: `r.d.Have = r.d.Ready`},
	{rule: "a former life's readiness is not joining", file: phase, old: `return v.Node.Status == NodeReady && !former`, new: `return v.Node.Status == NodeReady || former`},
	{rule: "a node that beats all the while is there", file: phase, old: `v.Node.Index <= v.Intent.NodeIndex && !v.overdue(now, l)`, new: `v.Node.Index <= v.Intent.NodeIndex`},
	{rule: "the lease before each act", file: loop, old: `return held && g == gen && until.Sub(now) >= l.cfg.ActTimeout`, new: `_, _, _ = g, until, held; return true`},
	{rule: "record before act", file: loop, old: "	intent, err := l.cfg.Store.Record(ctx, a.Host, v.Intend(a, now, gen))\n	if err != nil {", new: "	intent, err := l.cfg.Store.Record(ctx, a.Host, v.Intend(a, now, gen))\n	if false && err != nil {"},
	{rule: "acts end in time", file: loop, old: `// ActTimeout from now is before the lease ends, as was just made sure.
	ctx, cancel := context.WithTimeout(ctx, l.cfg.ActTimeout)`, new: `ctx, cancel := context.WithTimeout(ctx, 20*l.cfg.ActTimeout)`},
	{rule: "memory is read before sight", file: loop, old: `id := s.Hosts[i].Host.ID`, new: `id := s.Hosts[0].Host.ID`},
}

// laws are those of Check. Reconcile keeps them too, so what notices that one
// is gone is its own table of unsafe actions.
var laws = []mutant{
	{rule: "no such host", file: check, old: `if !known {`, new: `if !known { continue }; if false {`},
	{rule: "one action a host", file: check, old: `if v.do != VerbNone {`, new: `if false {`},
	{rule: "not Unknown, not Held", file: check, old: `case Unknown, Held:`, new: `case Phase(99):`},
	{rule: "looked at since", file: check, old: `!v.NodeAt.After(t) || !v.PowerAt.After(t)`, new: `false && t.IsZero()`},
	{rule: "fresh sight", file: check, old: `if c.now.Sub(v.NodeAt) > c.l.StaleAfter {`, new: `if false {`},
	{rule: "power-on: read as off", file: check, old: `v.Power == PowerOff && c.now.Sub(v.PowerAt) <= c.l.StaleAfter, "its`, new: `true, "its`},
	{rule: "power-on: quarantine", file: check, old: `v.phase != Quarantined, "it`, new: `true, "it`},
	{rule: "power-on: budget of cycles", file: check, old: `c.l.CycleBudget == 0 || v.cyclesToday(c.now) < c.l.CycleBudget`, new: `true`},
	{rule: "power-on: ledger", file: check, old: `a.Ledger.OnAt.Equal(c.now) && a.Ledger.Cycles > 0`, new: `true`},
	{rule: "enable: node ready", file: check, old: `node.Status == NodeReady, "its node is not ready"`, new: `true, "its node is not ready"`},
	{rule: "enable: registered since", file: check, old: `v.Verb != TurnOn || node.Index == 0 || node.Index > v.Intent.NodeIndex || v.overdue(c.now, c.l)`, new: `true`},
	{rule: "enable: not while it shuts down", file: check, old: `v.Verb != SoftOff && v.Verb != HardOff, "it is shutting down"`, new: `true, "it is shutting down"`},
	{rule: "cordon: in service", file: check, old: `v.phase == Ready || c.neverJoined(v), "it is not in service"`, new: `true, "it is not in service"`},
	{rule: "cordon: least time on", file: check, old: `v.OnAt.IsZero() || c.now.Sub(v.OnAt) >= c.l.MinOn || v.Said.leave() || c.neverJoined(v)`, new: `true`},
	{rule: "cordon and drain: work that must stay", file: check, old: `		if !byRule && v.Said.Word != WordDrain && v.Said.Word != WordOff {`, new: `		if false && !byRule {`},
	{rule: "drain: ineligible", file: check, old: `!node.Eligible, "it is still eligible, so work may land on it"`, new: `true, "it is still eligible"`},
	{rule: "the deciding process's own host", file: check, old: `!v.Self || a.Do == TurnOn || a.Do == Enable`, new: `true`},
	{rule: "word: hold", file: check, old: "case WordHold:\n		against = true", new: "case WordHold:"},
	{rule: "word: drain", file: check, old: `against = a.Do == TurnOn || a.Do == Enable || (a.Do == SoftOff || a.Do == HardOff) && v.phase == Draining`, new: `against = false`},
	{rule: "word: off", file: check, old: "against = a.Do == TurnOn || a.Do == Enable\n", new: "against = false\n"},
	{rule: "word: on", file: check, old: `against = a.Do == Drain || a.Do == Cordon && !c.neverJoined(v) || a.Do == SoftOff && v.phase == Draining`, new: `against = false`},
	{rule: "off: work", file: check, old: "	node := v.Node\n	c.require(a, len(node.Work) == 0, \"it has work\")", new: "	node := v.Node\n"},
	{rule: "off: eligible", file: check, old: `!node.Eligible, "it is eligible, so work may land on it"`, new: `true, "it is eligible"`},
	{rule: "off: drain ended", file: check, old: `!node.Draining, "its drain`, new: `true, "its drain`},
	{rule: "off: our drain", file: check, old: `node.Mark == MarkOurs || v.Verb == SoftOff || v.Verb == HardOff || c.neverJoined(v)`, new: `true`},
	{rule: "off: joined before", file: check, old: `if v.JoinedAt.After(v.OnAt) && v.Verb == TurnOn || `, new: `if `},
	{rule: "off: least time on", file: check, old: `v.phase != Draining || v.OnAt.IsZero() || c.now.Sub(v.OnAt) >= c.l.MinOn || v.Said.leave()`, new: `true`},
	{rule: "off: power read", file: check, old: `v.Power != PowerUnknown && c.now.Sub(v.PowerAt) <= c.l.StaleAfter`, new: `true`},
	{rule: "off: agent passing", file: check, old: `passing || c.l.Agent == AgentOptional, "its agent does`, new: `true, "its agent does`},
	{rule: "off: outside work", file: check, old: `!passing || v.Agent.Outside == 0 || c.l.Agent == AgentNone`, new: `true`},
	{rule: "off: blind agent", file: check, old: `c.l.Agent == AgentOptional || v.Agent.Blind == ""`, new: `true`},
	{rule: "off: ledger", file: check, old: `a.Ledger.OffAt.Equal(c.now), "it`, new: `true, "it`},
	{rule: "hard off: policy", file: check, old: `c.l.HardOff || v.FailedBoots > 0 && node.Status != NodeReady`, new: `true`},
	{rule: "hard off: asked before", file: check, old: `v.Verb == SoftOff && !v.SettledAt.IsZero() || v.Verb == HardOff, "it was`, new: `true, "it was`},
	{rule: "hard off: its time", file: check, old: `c.now.Sub(v.Intent.At) >= c.l.SoftOffTimeout, "it still`, new: `true, "it still`},
	{rule: "together: booting", file: check, old: `booting+on > c.l.MaxBooting {`, new: `false {`},
	{rule: "together: booting unseen", file: check, old: `case (v.phase == Unknown || v.phase == Held) && v.Verb == TurnOn && inTime && !c.dark(v):`, new: `case false:`},
	{rule: "together: draining", file: check, old: `draining+cordon > c.l.MaxDraining {`, new: `false {`},
	{rule: "together: most", file: check, old: `if called && ready+coming+on-out > most {`, new: `if false && called {`},
	{rule: "together: floor", file: check, old: `ready-out < min(floor, most) {`, new: `false {`},
	{rule: "together: stagger on", file: check, old: `(on > 1 || c.now.Sub(lastOn) < c.l.Stagger)`, new: `false`},
	{rule: "together: stagger off", file: check, old: `(off > 1 || c.now.Sub(lastOff) < c.l.Stagger)`, new: `false`},
	{rule: "together: standby", file: check, old: `stay < standby {`, new: `false {`},
	{rule: "together: warm first", file: check, old: "			if asWell {", new: "			if asWell && false {"},
	{rule: "together: power budget", file: check, old: `total > budget*(1+1e-9) {`, new: `false && total > budget {`},
	{rule: "together: refused class", file: check, old: `!c.now.Before(wait[v.Class]), "its`, new: `true, "its`},
}

// blindCheck turns Check off.
var blindCheck = mutant{rule: "Check", file: check, old: "	c.each(actions)\n", new: "	return nil\n"}

// TestMutantsAreCurrent: what a mutant replaces is there, once. Without this
// the table would rot between nights.
func TestMutantsAreCurrent(t *testing.T) {
	all := append(append([]mutant{blindCheck}, rules...), laws...)
	for _, m := range all {
		all = append(all, m.also...)
	}
	for _, m := range all {
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
	for _, m := range rules {
		t.Run("rule/"+m.rule, func(t *testing.T) {
			t.Parallel()
			out, failed := underMutants(t, append([]mutant{blindCheck, m}, m.also...), ".", "-run", "TestSchedules", "-args", "-schedules", fmt.Sprint(*tries), "-failures", "1")
			if !failed { // too rare a chance, or a second line of defence: a scenario tells it
				out, failed = underMutants(t, append([]mutant{blindCheck, m}, m.also...), "../../pool", "-run", "TestScenarios")
			}
			report(t, out, failed)
		})
	}
	for _, m := range laws {
		t.Run("law/"+m.rule, func(t *testing.T) {
			t.Parallel()
			out, failed := underMutants(t, []mutant{m}, "../../pool", "-run", "TestCheckRefuses")
			report(t, out, failed)
		})
	}
}

func report(t *testing.T, out string, failed bool) {
	t.Helper()
	switch {
	case strings.Contains(out, "[build failed]"):
		t.Errorf("does not compile:\n%s", out)
	case !failed:
		t.Error("NOT NOTICED")
	default:
		t.Logf("noticed: %s", notice(out))
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
