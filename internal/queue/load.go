package queue

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/gpupool/gpupool/internal/plainhcl"
	"github.com/gpupool/gpupool/internal/secret"
	"github.com/gpupool/gpupool/internal/setting"
)

const (
	maxFile    = 1 << 20 // bytes
	maxQueues  = 200     // in a file
	maxSources = 16      // of a queue
)

// Load reads the queues from a file. See [Parse].
func Load(path string, kinds []Kind) (*Set, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("queues: %w", err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	if info, err := f.Stat(); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("queues: %s is not a file", path)
	}
	src, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("queues: %w", err)
	}
	return Parse(path, src, kinds)
}

// Parse reads the queues from the content of a file. The error has all
// mistakes, each with file, line, key and mend; it is a [setting.Problems].
// Nothing is sent: the servers may be down.
func Parse(filename string, src []byte, kinds []Kind) (*Set, error) {
	if len(src) > maxFile {
		return nil, setting.Problem{File: filename, What: fmt.Sprintf("is larger than %d bytes", maxFile), Mend: "is it the right file?"}
	}
	p := &parser{file: filename, kinds: kinds, slots: make(chan struct{}, maxAsked)}
	set := p.parse(src)
	if err := p.problems.Err(); err != nil {
		_ = set.Close() // of those that were right
		return nil, err
	}
	return set, nil
}

// parser collects what one file says and all that is wrong with it.
type parser struct {
	file     string
	kinds    []Kind
	slots    chan struct{}
	problems setting.Problems
	warnings []string
}

func (p *parser) reject(line int, subject, key, what, mend string) {
	p.problems = append(p.problems, setting.Problem{File: p.file, Line: line, Subject: subject, Key: key, What: what, Mend: mend})
}

func (p *parser) parse(src []byte) *Set {
	set := new(Set)
	body, problems := plainhcl.Parse(p.file, src)
	p.problems = problems
	if body == nil {
		return set
	}
	for _, a := range plainhcl.Attributes(body) {
		p.reject(plainhcl.Line(a.NameRange), "", a.Name, "stands outside of any queue", `put it into a queue "NAME" { ... } block`)
	}
	lines := make(map[string]int)
	for _, b := range body.Blocks {
		at := plainhcl.Line(b.TypeRange)
		if b.Type != "queue" {
			p.reject(at, "", b.Type, "there is no such block", setting.Suggest(b.Type, []string{"queue"}))
			continue
		}
		if len(set.Queues) == maxQueues {
			p.reject(at, "", "queue", fmt.Sprintf("there are more than %d queues", maxQueues), "read fewer")
			break
		}
		q := p.queue(b)
		if q == nil {
			continue
		}
		if first, found := lines[q.Name]; found {
			p.reject(at, plainhcl.Subject("queue", q.Name), "", fmt.Sprintf("there is a queue of this name on line %d", first), "give each queue a name of its own")
		}
		lines[q.Name] = at
		set.Queues = append(set.Queues, q)
	}
	if len(body.Blocks) == 0 {
		p.reject(1, "", "", "there is no queue", `write one: queue "NAME" { source "redis" { ... } }`)
	}
	slices.SortStableFunc(set.Queues, func(a, b *Queue) int { return cmp.Compare(a.Name, b.Name) })
	slices.Sort(p.warnings)
	set.Warnings = slices.Compact(p.warnings)
	return set
}

// name is what fits a label of a metric, a segment of a Consul key and a
// command line.
var name = regexp.MustCompile(`^[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,63}$`)

// label returns the one label of a block.
func (p *parser) label(b *hclsyntax.Block, subject string) (string, bool) {
	at := plainhcl.Line(b.TypeRange)
	if len(b.Labels) != 1 {
		p.reject(at, subject, b.Type, fmt.Sprintf("has %d names", len(b.Labels)), fmt.Sprintf("write %s \"NAME\" { ... }", b.Type))
		return "", false
	}
	if !name.MatchString(b.Labels[0]) {
		p.reject(at, subject, b.Type, fmt.Sprintf("%.80q is not a name", b.Labels[0]),
			"use 1 to 64 of the characters a-z, A-Z, 0-9, dot, dash and underscore, not beginning with a dot")
		return "", false
	}
	return b.Labels[0], true
}

func (p *parser) queue(b *hclsyntax.Block) *Queue {
	label, ok := p.label(b, "")
	if !ok {
		return nil
	}
	q := &Queue{Name: label}
	subject := plainhcl.Subject("queue", label)
	r := p.reader(b, subject)
	q.declare(r)
	r.Finish(nil)
	p.problems = append(p.problems, r.Problems()...)

	kinds := make(map[string]int)
	for _, inner := range b.Body.Blocks {
		at := plainhcl.Line(inner.TypeRange)
		if inner.Type != "source" {
			p.reject(at, subject, inner.Type, "there is no such block", setting.Suggest(inner.Type, []string{"source"}))
			continue
		}
		if len(q.sources) == maxSources {
			p.reject(at, subject, "source", fmt.Sprintf("the queue has more than %d sources", maxSources), "split it")
			break
		}
		if m := p.source(inner, subject, kinds); m != nil {
			q.sources = append(q.sources, m)
		}
	}
	if !slices.ContainsFunc(b.Body.Blocks, func(b *hclsyntax.Block) bool { return b.Type == "source" }) {
		p.reject(plainhcl.Line(b.TypeRange), subject, "source", "the queue has no source", `write a source "KIND" { ... } block: `+p.known(""))
	}
	return q
}

// declare reads the settings of a queue.
func (q *Queue) declare(r *setting.Reader) {
	q.Combine = r.OneOf("combine", Sum, "How several sources make one queue. sum: they hold different work. max: they see the same work in different ways, as KEDA takes its triggers.", Sum, Max)
	q.Activation = r.Float("activation", 0, "The queue is active while there is more work than this, waiting and running. KEDA: `activationListLength`, `activationLagThreshold` and so on.", setting.AtLeast(0.0))
}

func (p *parser) reader(b *hclsyntax.Block, subject string) *setting.Reader {
	given, problems := plainhcl.Given(b.Body, p.file, subject)
	p.problems = append(p.problems, problems...)
	return setting.NewReader(setting.Place{Subject: subject, File: p.file, Line: plainhcl.Line(b.TypeRange)}, given)
}

// source reads one source block. seen counts the kinds of the queue so far.
func (p *parser) source(b *hclsyntax.Block, subject string, seen map[string]int) *member {
	at := plainhcl.Line(b.TypeRange)
	label, ok := p.label(b, subject)
	if !ok {
		return nil
	}
	i := slices.IndexFunc(p.kinds, func(k Kind) bool { return k.Name == label })
	if i < 0 {
		p.reject(at, subject, "source", fmt.Sprintf("there is no kind of source %.80q", label), p.known(label))
		return nil
	}
	kind := p.kinds[i]
	m := &member{label: plainhcl.Subject("source", label), slots: p.slots, busy: make(chan struct{}, 1)}
	if seen[label]++; seen[label] > 1 {
		m.label += fmt.Sprintf(" number %d", seen[label])
	}
	subject += ": " + m.label
	for _, inner := range b.Body.Blocks {
		p.reject(plainhcl.Line(inner.TypeRange), subject, inner.Type, "there is no such block", "take it out")
	}
	before := len(p.problems)
	r := p.reader(b, subject)
	open := kind.Declare(r)
	m.declare(r, kind, func(key string) bool { return b.Body.Attributes[key] != nil })
	r.Finish(nil)
	p.problems = append(p.problems, r.Problems()...)
	p.warn(b, subject)
	if len(p.problems) > before {
		return nil // open is not for settings with mistakes
	}
	source, err := open()
	for _, err := range setting.Split(err) {
		p.reject(at, subject, "", err.Error(), "")
	}
	if err != nil {
		return nil
	}
	m.source = source
	return m
}

// declare reads the settings that every source of a kind has.
func (m *member) declare(r *setting.Reader, k Kind, given func(key string) bool) {
	m.target = 1
	first := ""
	for _, key := range k.Targets {
		before := len(r.Problems())
		t := r.Float(key, 0, "How much of this work, waiting and running, one unit of capacity (a GPU, a slot, an instance: what the policy counts) should have. Less than 1 where one item takes several.", setting.Rule[float64]{
			Text: "above 0", OK: func(v float64) bool { return v >= 0 && v <= 1e12 }, // 0 is not given
		})
		r.DefaultIs(key, "`1`")
		switch {
		case !given(key) || len(r.Problems()) > before:
		case first != "":
			r.Reject(key, first+" is given too, and means the same", "keep one of them")
		case t == 0:
			r.Reject(key, "is 0, so the work would ask for no end of capacity", "write more than 0")
		default:
			m.target, first = t, key
		}
	}
	m.timeout = r.Duration("timeout", 5*time.Second, "How long the queue may take to answer. Keep it well below the policy's evaluation_interval.", setting.Between(100*time.Millisecond, time.Minute))
	m.missingIsZero = r.Bool("missing_as_zero", false, "A queue that the server does not have is empty. Without it, it is an error and the depth unknown.")
}

// known says which kinds there are.
func (p *parser) known(word string) string {
	var names []string
	for _, k := range p.kinds {
		if word != "" && strings.Contains(k.Name, word) {
			return fmt.Sprintf("did you mean %q?", k.Name)
		}
		names = append(names, k.Name)
	}
	return setting.Suggest(word, names)
}

// warn records what works and should not stay.
func (p *parser) warn(b *hclsyntax.Block, subject string) {
	for _, a := range plainhcl.Attributes(b.Body) {
		v, diags := a.Expr.Value(nil)
		if diags.HasErrors() {
			continue
		}
		text, _ := plainhcl.Scalar(v)
		what := ""
		switch {
		case a.Name == "insecure_skip_verify" && text == "true":
			what = "the server's certificate is not verified, so that whoever answers in its place gets the credential; set ca_file instead"
		case secret.IsRef(text):
			what = secret.Ref(text).Warning()
		}
		if what != "" {
			p.warnings = append(p.warnings, fmt.Sprintf("%s:%d: %s: %s: %s", p.file, plainhcl.Line(a.NameRange), subject, a.Name, what))
		}
	}
}
