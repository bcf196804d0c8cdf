// Package policyfile reads what an operator would run, a scaling policy in HCL,
// as a policy of the simulator: a file with scaling blocks, or with the single
// strategy block that gpupool tune writes.
package policyfile

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/gpupool/gpupool/internal/plainhcl"
	"github.com/gpupool/gpupool/internal/plan"
	"github.com/gpupool/gpupool/internal/pluginconfig"
	"github.com/gpupool/gpupool/internal/setting"
	"github.com/gpupool/gpupool/internal/sim"
	"github.com/gpupool/gpupool/internal/strategy"
)

const maxFile = 1 << 20 // bytes

// ours are the labels by which policies call strategy-predictive: its own name,
// and the one that the job files of this project give it.
var ours = []string{"gpupool", strategy.Plugin}

// Load reads a policy from a file. See [Parse].
func Load(path string) (sim.Spec, error) {
	f, err := os.Open(path)
	if err != nil {
		return sim.Spec{}, err
	}
	defer func() { _ = f.Close() }() // read only: there is nothing to lose
	src, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return sim.Spec{}, err
	}
	return Parse(filepath.Base(path), src)
}

// Parse reads a policy from the content of a file, whose name is the policy's.
//
// Of strategy-predictive the file's settings are used as they stand, but for
// units and interval, which are the simulated pool's. lead_time, slo and
// slo_wait are that pool's too where the file does not say them.
// Nomad Autoscaler's own strategies run as [sim.NomadPolicy] says. The error has
// all mistakes; it is a [setting.Problems].
func Parse(name string, src []byte) (sim.Spec, error) {
	if len(src) > maxFile {
		return sim.Spec{}, setting.Problem{File: name, What: fmt.Sprintf("is larger than %d bytes", maxFile), Mend: "is it the right file?"}
	}
	body, problems := plainhcl.Parse(name, src)
	if body == nil {
		return sim.Spec{}, problems.Err()
	}
	r := reader{file: name}
	r.walk(body, scope{})
	spec := r.spec()
	if err := r.problems.Err(); err != nil {
		return sim.Spec{}, err
	}
	return spec, nil
}

// reader collects the strategies of one file and all that is wrong with it.
type reader struct {
	file     string
	problems setting.Problems
	found    []block
}

// scope is what the blocks around a strategy say.
type scope struct {
	check    string
	min, max int
	cooldown time.Duration
}

// block is one strategy block.
type block struct {
	scope
	label  string
	line   int
	config map[string]setting.Given
}

func (r *reader) reject(line int, subject, key, what, mend string) {
	r.problems = append(r.problems, setting.Problem{File: r.file, Line: line, Subject: subject, Key: key, What: what, Mend: mend})
}

// walk finds the strategy blocks in whatever stands around them: a scaling
// block has a policy, that has checks, and those have one strategy each.
func (r *reader) walk(body *hclsyntax.Body, in scope) {
	for _, b := range body.Blocks {
		at := in
		switch b.Type {
		case "strategy":
			r.strategy(b, in)
			continue
		case "scaling":
			at.min, at.max = r.count(b, "min"), r.count(b, "max")
		case "policy":
			at.cooldown = r.duration(b, "cooldown")
		case "check":
			at.check = strings.Join(b.Labels, " ")
		case "target":
			continue
		}
		r.walk(b.Body, at)
	}
}

func (r *reader) strategy(b *hclsyntax.Block, in scope) {
	line := plainhcl.Line(b.TypeRange)
	if len(b.Labels) != 1 {
		r.reject(line, "strategy", "", fmt.Sprintf("has %d names", len(b.Labels)), `write strategy "NAME" { ... }`)
		return
	}
	known := slices.Concat(ours, sim.NomadStrategies())
	if !slices.Contains(known, b.Labels[0]) {
		r.reject(line, plainhcl.Subject("strategy", b.Labels[0]), "", "the simulator does not have it", setting.Suggest(b.Labels[0], known))
		return
	}
	subject := plainhcl.Subject("strategy", b.Labels[0])
	config, problems := plainhcl.Given(b.Body, r.file, subject)
	r.problems = append(r.problems, problems...)
	for _, inner := range b.Body.Blocks {
		r.reject(plainhcl.Line(inner.TypeRange), subject, inner.Type, "there is no such block", "")
	}
	r.found = append(r.found, block{scope: in, label: b.Labels[0], line: line, config: config})
}

// given is the text of an attribute of a block; empty if it has none.
func (r *reader) given(b *hclsyntax.Block, key string) (text string, line int) {
	a, ok := b.Body.Attributes[key]
	if !ok {
		return "", 0
	}
	line = plainhcl.Line(a.NameRange)
	v, diags := a.Expr.Value(nil)
	if text, ok = plainhcl.Scalar(v); !ok || diags.HasErrors() {
		r.reject(line, b.Type, key, "is no plain value", "")
	}
	return text, line
}

func (r *reader) count(b *hclsyntax.Block, key string) int {
	text, line := r.given(b, key)
	if text == "" {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		r.reject(line, b.Type, key, fmt.Sprintf("%.40q is no count", text), "write a whole number, 0 or more")
	}
	return n
}

func (r *reader) duration(b *hclsyntax.Block, key string) time.Duration {
	text, line := r.given(b, key)
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		r.reject(line, b.Type, key, fmt.Sprintf("%.40q is no duration", text), `write one such as "5m"`)
	}
	return d
}

// spec is the policy that the file has. Where it has several, there is no
// telling which is meant.
func (r *reader) spec() sim.Spec {
	isOurs := func(b block) bool { return slices.Contains(ours, b.label) }
	switch n := len(r.found); {
	case len(r.problems) > 0:
	case n == 0:
		r.reject(0, "", "", "there is no strategy block in it", `write strategy "gpupool" { ... }, or a whole scaling policy`)
	case n > 1 && slices.ContainsFunc(r.found, isOurs):
		r.reject(r.found[1].line, "strategy", "", "is the second one, and the simulator runs strategy-predictive alone", "put each into a file of its own")
	case isOurs(r.found[0]):
		return r.predictive(r.found[0])
	default:
		return r.nomad()
	}
	return sim.Spec{}
}

// predictive reads a strategy block as the plugin does. Units and interval are
// not the block's to say here, and max need not be said.
func (r *reader) predictive(b block) sim.Spec {
	b.config["units"] = setting.Given{Text: "1"}
	delete(b.config, "interval")
	stated := maps.Clone(b.config)
	if _, ok := stated["max"]; !ok {
		b.config["max"] = setting.Given{Text: "1000000"}
	}
	settings := setting.NewReader(setting.Place{Subject: plainhcl.Subject("strategy", b.label), File: r.file, Line: b.line}, b.config)
	said := strategy.Declare(pluginconfig.Reader{Reader: settings})
	settings.Finish(pluginconfig.IsHostKey)
	r.problems = append(r.problems, settings.Problems()...)

	spec := sim.Predictive(func(world *plan.Rules) { *world = over(*world, said.Rules, stated) })
	spec = sim.Scheduled(spec, func(in *plan.Input, lead time.Duration) { said.Bound(in, lead) })
	spec.Name, spec.About, spec.Source = r.file, "strategy-predictive as the file has it", r.file
	return spec
}

// over is what rules say in a world, with the world's facts for what they do not
// state. Their count is cut to the world's.
func over(world, rules plan.Rules, stated map[string]setting.Given) plan.Rules {
	rules.Units, rules.Interval = world.Units, world.Interval
	for _, fact := range []struct {
		key  string
		take func()
	}{
		{"lead_time", func() { rules.Lead = world.Lead }},
		{"slo", func() { rules.SLO = world.SLO }},
		{"slo_wait", func() { rules.Wait = world.Wait }},
	} {
		if _, ok := stated[fact.key]; !ok {
			fact.take()
		}
	}
	rules.Min = min(max(rules.Min, world.Min), world.Max)
	rules.Max = max(min(rules.Max, world.Max), rules.Min)
	return rules
}

func (r *reader) nomad() sim.Spec {
	first := r.found[0]
	p := sim.NomadPolicy{Min: first.min, Max: first.max, Cooldown: first.cooldown}
	for _, b := range r.found {
		config := make(map[string]string, len(b.config))
		for k, g := range b.config {
			config[k] = g.Text
		}
		one := sim.NomadCheck{Name: b.check, Strategy: b.label, Config: config}
		if err := (sim.NomadPolicy{Checks: []sim.NomadCheck{one}}).Check(); err != nil {
			r.reject(b.line, plainhcl.Subject("strategy", b.label), "", err.Error(), "")
		}
		p.Checks = append(p.Checks, one)
	}
	return sim.Spec{Name: r.file, About: "Nomad Autoscaler's own " + first.label + " as the file has it, on the utilization of ready replicas in percent",
		Source: r.file, New: p.New}
}
