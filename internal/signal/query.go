package signal

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/VictoriaMetrics/metricsql"

	"github.com/gpupool/gpupool/internal/setting"
)

// The ways to make one number of several, as PromQL calls them.
const (
	Sum      = "sum"
	Avg      = "avg"
	Min      = "min"
	Max      = "max"
	Count    = "count"
	Quantile = "quantile"
)

var aggregations = []string{Sum, Avg, Min, Max, Count, Quantile}

// overTime are the functions over a window, and what they make of it.
var overTime = map[string]string{
	"sum_over_time": Sum, "avg_over_time": Avg, "min_over_time": Min, "max_over_time": Max,
	"count_over_time": Count, "quantile_over_time": Quantile,
}

// Bounds of a query.
const (
	maxQuery  = 1 << 10 // bytes
	maxTerms  = 8       // selectors
	maxWindow = 24 * time.Hour
)

// reduction is how several values become one.
type reduction struct {
	how string  // one of aggregations; empty where there is one value
	phi float64 // of a quantile
}

func (r reduction) apply(name, inner string) string {
	switch r.how {
	case "":
		return inner
	case Quantile:
		return fmt.Sprintf("%s(%s, %s)", name, strconv.FormatFloat(r.phi, 'g', -1, 64), inner)
	}
	return fmt.Sprintf("%s(%s)", name, inner)
}

// Query is a parsed query.
type Query struct {
	// Terms are what is read. Where there are several, they are joined by
	// Join; otherwise the values of the one become a number by it.
	Terms []Term
	Join  string // Sum or Max; empty with one term
	// Over is how the samples of Window make each point, if Window is not 0.
	Over   reduction
	Window time.Duration
	// Above is the activation threshold: a value that is not above it counts
	// as 0. NaN for none.
	Above float64
}

// Term is one selector with its aggregation.
type Term struct {
	Signal *Signal
	By     reduction // the signal's own where the query has none
	key    string    // the pool, job or source
	space  string    // namespace of a job
	filter map[string]match
}

// match is a condition on a label. The zero value lets all pass.
type match struct {
	text     string // as PromQL: ="x"
	value    string
	negative bool
	pattern  *regexp.Regexp
}

func (m match) ok(s string) bool {
	switch {
	case m.text == "":
		return true
	case m.pattern != nil:
		return m.pattern.MatchString(s) != m.negative
	}
	return (m.value == s) != m.negative
}

// Known is what names there are, for the check of a query.
type Known struct {
	Pools, Queues []string
}

// Error is a mistake in a query.
type Error struct {
	Query  string
	Column int // of the mistake, in characters from 1; 0 where it has no place
	What   string
	Mend   string // may be empty
}

func (e *Error) Error() string {
	at := ""
	if e.Column > 0 {
		at = fmt.Sprintf("column %d: ", e.Column)
	}
	text := fmt.Sprintf("query %.120q: %s%s", e.Query, at, e.What)
	if e.Mend != "" {
		text += "; " + e.Mend
	}
	return text
}

// Parse reads a query. It is a selector of one signal in the form of PromQL,
// with one aggregation, an activation threshold and a window around it, if
// wanted:
//
//	demand_gpus{pool="h100"}
//	quantile(0.95, gpu_busy_ratio{pool="h100"})
//	sum(instance_demand{job="chat"}, queue_depth{source="chat"})
//	queue_depth{source="tasks"} > 5
//	max_over_time(instance_load{job="chat"}[5m])
//
// The error is an [*Error], with the place of the mistake and the nearest
// valid name.
func Parse(text string, known Known) (Query, error) {
	p := &parser{text: text, known: known}
	q := Query{Above: math.NaN()}
	if err := p.refuse(); err != nil {
		return q, err
	}
	expr, err := metricsql.Parse(text)
	if err != nil {
		return q, p.syntax(err)
	}
	if err := p.window(&q, expr); err != nil {
		return q, err
	}
	return q, nil
}

type parser struct {
	text   string
	known  Known
	tokens []token
}

// refuse looks at what must not reach the library: it would expand templates
// within templates, however large that gets.
func (p *parser) refuse() error {
	if len(p.text) > maxQuery {
		return &Error{Query: p.text, What: fmt.Sprintf("it has %d bytes", len(p.text)), Mend: fmt.Sprintf("%d are allowed", maxQuery)}
	}
	p.tokens = scan(p.text)
	if at := template.FindStringIndex(p.text); at != nil {
		return &Error{Query: p.text, Column: p.column(at[0]), What: "templates (WITH) are not understood", Mend: "write the query out"}
	}
	for i, t := range p.tokens {
		if t.kind != word {
			continue
		}
		if i+1 < len(p.tokens) && p.tokens[i+1].text == "(" && !slices.Contains(functions(), t.text) && !isModifier(t.text) {
			return p.wrong(t.text, "", fmt.Sprintf("there is no function %.40q", t.text), setting.Suggest(t.text, functions()))
		}
	}
	return nil
}

// template is where one may begin. It is looked for in texts and comments too,
// so that it does not depend on where they end.
var template = regexp.MustCompile(`(?i)\bwith\s*(#[^\n]*\s*)*\(`)

func functions() []string {
	all := slices.Clone(aggregations)
	for name := range overTime {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

func isModifier(s string) bool { return s == "by" || s == "without" || s == "or" }

// syntax is a mistake that the library found. It says what was left to read.
func (p *parser) syntax(err error) error {
	what, rest, found := strings.Cut(err.Error(), "unparsed data")
	what = internals.ReplaceAllString(strings.TrimRight(what, "; "), "")
	e := &Error{Query: p.text, What: "it is no PromQL: " + what, Mend: "write one such as " + example(p.known)}
	if !found {
		return e
	}
	if i := strings.IndexByte(rest, '"'); i >= 0 {
		if left, err := strconv.Unquote(rest[i:]); err == nil && strings.HasSuffix(p.text, left) {
			e.Column = p.column(len(p.text) - len(left))
		}
	}
	return e
}

// internals are the names of the library's functions, which its errors begin with.
var internals = regexp.MustCompile(`^([A-Za-z]+[:;] )+`)

// wrong is a mistake at a word of the query: the one before which the word
// after stands, or the first.
func (p *parser) wrong(at, after, what, mend string) error {
	e := &Error{Query: p.text, What: what, Mend: mend}
	seen := after == ""
	for _, t := range p.tokens {
		if seen && t.text == at {
			e.Column = p.column(t.at)
			break
		}
		seen = seen || t.text == after
	}
	return e
}

func (p *parser) column(at int) int { return len([]rune(p.text[:at])) + 1 }

func example(known Known) string {
	pool := "h100"
	if len(known.Pools) > 0 {
		pool = known.Pools[0]
	}
	return fmt.Sprintf("demand_gpus{pool=%q}", pool)
}

// window reads what may stand outermost: a function over time, or a threshold.
func (p *parser) window(q *Query, e metricsql.Expr) error {
	f, ok := e.(*metricsql.FuncExpr)
	if !ok {
		return p.threshold(q, e)
	}
	how, ok := overTime[f.Name]
	args := f.Args
	if !ok || f.KeepMetricNames {
		return p.wrong(f.Name, "", fmt.Sprintf("%s is not understood", f.Name), "known are "+strings.Join(functions(), ", "))
	}
	q.Over = reduction{how: how}
	if how == Quantile {
		if len(args) != 2 {
			return p.wrong(f.Name, "", f.Name+" takes a number and a series", "write quantile_over_time(0.95, "+example(p.known)+"[5m])")
		}
		phi, err := p.phi(f.Name, args[0])
		if err != nil {
			return err
		}
		q.Over.phi, args = phi, args[1:]
	}
	if len(args) != 1 {
		return p.wrong(f.Name, "", f.Name+" takes one series", "write "+f.Name+"("+example(p.known)+"[5m])")
	}
	r, ok := args[0].(*metricsql.RollupExpr)
	if !ok || r.Window == nil {
		return p.wrong(f.Name, "", f.Name+" has no window", "write "+f.Name+"("+example(p.known)+"[5m])")
	}
	if r.Offset != nil || r.At != nil || r.Step != nil {
		return p.wrong("[", "", "offset, @ and a resolution are not understood", "the policy has query_window_offset")
	}
	d, err := r.Window.NonNegativeDuration(1)
	if err != nil || d < 1000 || d > maxWindow.Milliseconds() {
		return p.wrong("[", "", "the window is not between 1s and 24h", "")
	}
	q.Window = time.Duration(d) * time.Millisecond
	return p.threshold(q, r.Expr)
}

// threshold reads `series > number`.
func (p *parser) threshold(q *Query, e metricsql.Expr) error {
	b, ok := e.(*metricsql.BinaryOpExpr)
	if !ok {
		return p.join(q, e)
	}
	n, ok := b.Right.(*metricsql.NumberExpr)
	if b.Op != ">" || !ok || b.Bool || n.N < 0 || math.IsNaN(n.N) || math.IsInf(n.N, 0) {
		return p.wrong(b.Op, "", fmt.Sprintf("the operator %s is not understood here", b.Op), "only `> NUMBER` is, the activation threshold, to the right of the series")
	}
	q.Above = n.N
	return p.join(q, b.Left)
}

// join reads one term, or sum(…) or max(…) of several.
func (p *parser) join(q *Query, e metricsql.Expr) error {
	a, ok := e.(*metricsql.AggrFuncExpr)
	if ok && len(a.Args) > 1 && a.Name != Quantile {
		if err := p.plain(a); err != nil {
			return err
		}
		if a.Name != Sum && a.Name != Max {
			return p.wrong(a.Name, "", a.Name+" of several series is not understood", "sum and max are")
		}
		if len(a.Args) > maxTerms {
			return p.wrong(a.Name, "", fmt.Sprintf("it is of %d series", len(a.Args)), fmt.Sprintf("%d are allowed", maxTerms))
		}
		q.Join = a.Name
		for _, arg := range a.Args {
			if err := p.term(q, arg); err != nil {
				return err
			}
		}
		return nil
	}
	return p.term(q, e)
}

// plain refuses what makes several series of one, or some of several.
func (p *parser) plain(a *metricsql.AggrFuncExpr) error {
	switch {
	case a.Modifier.Op != "":
		return p.wrong(a.Modifier.Op, "", a.Modifier.Op+" makes several series, and a query has one", "ask for each with a query of its own")
	case a.Limit != 0:
		return p.wrong("limit", "", "limit is not understood", "")
	}
	return nil
}

// term reads a selector, with an aggregation around it if there is one.
func (p *parser) term(q *Query, e metricsql.Expr) error {
	a, ok := e.(*metricsql.AggrFuncExpr)
	if !ok {
		return p.selector(q, e, reduction{})
	}
	if err := p.plain(a); err != nil {
		return err
	}
	if !slices.Contains(aggregations, a.Name) {
		return p.wrong(a.Name, "", a.Name+" is not understood", "known are "+strings.Join(functions(), ", "))
	}
	by, args := reduction{how: a.Name}, a.Args
	if a.Name == Quantile {
		if len(args) != 2 {
			return p.wrong(a.Name, "", "quantile takes a number and a series", "write quantile(0.95, gpu_busy_ratio{pool=\"h100\"})")
		}
		phi, err := p.phi(a.Name, args[0])
		if err != nil {
			return err
		}
		by.phi, args = phi, args[1:]
	}
	if len(args) != 1 {
		return p.wrong(a.Name, "", a.Name+" takes one series here", "")
	}
	return p.selector(q, args[0], by)
}

func (p *parser) phi(name string, e metricsql.Expr) (float64, error) {
	n, ok := e.(*metricsql.NumberExpr)
	if !ok || !(n.N >= 0 && n.N <= 1) {
		return 0, p.wrong(name, "", "the first argument of "+name+" is not a number from 0 to 1", "write "+name+"(0.95, …)")
	}
	return n.N, nil
}

func (p *parser) selector(q *Query, e metricsql.Expr, by reduction) error {
	m, ok := e.(*metricsql.MetricExpr)
	if !ok {
		return p.noSelector(e)
	}
	if len(m.LabelFilterss) != 1 {
		return p.wrong("or", "", "`or` between labels, or no label at all, is not understood", "write "+example(p.known))
	}
	filters := m.LabelFilterss[0]
	t := Term{By: by, filter: make(map[string]match)}
	for _, f := range filters {
		if f.Label != "__name__" {
			continue
		}
		s, found := Find(f.Value)
		if !found || f.IsRegexp || f.IsNegative {
			return p.wrong(f.Value, "", fmt.Sprintf("there is no signal %.60q", f.Value), setting.Suggest(f.Value, Names()))
		}
		t.Signal = s
	}
	if t.Signal == nil {
		return &Error{Query: p.text, What: "no signal is named", Mend: "write one such as " + example(p.known)}
	}
	for _, f := range filters {
		if err := p.label(&t, f); err != nil {
			return err
		}
	}
	return p.complete(q, t)
}

// noSelector says why an expression is none.
func (p *parser) noSelector(e metricsql.Expr) error {
	mend := "write one such as " + example(p.known)
	switch e := e.(type) {
	case *metricsql.RollupExpr:
		if e.Window != nil {
			return p.wrong("[", "", "a window needs a function around all of it", "write max_over_time(sum(…)[5m]) rather than sum(max_over_time(…[5m]))")
		}
		return &Error{Query: p.text, What: "offset and @ are not understood", Mend: "the policy has query_window_offset"}
	case *metricsql.BinaryOpExpr:
		return p.wrong(e.Op, "", fmt.Sprintf("the operator %s is not understood here", e.Op), "several series are joined by sum(a, b) or max(a, b)")
	case *metricsql.FuncExpr:
		return p.wrong(e.Name, "", e.Name+" has to stand around all of the query", "write max_over_time(sum(…)[5m]) rather than sum(max_over_time(…[5m]))")
	case *metricsql.AggrFuncExpr:
		return p.wrong(e.Name, "(", "an aggregation within another is not understood", mend)
	}
	return &Error{Query: p.text, What: "it selects no signal", Mend: mend}
}

// label reads one label of a selector.
func (p *parser) label(t *Term, f metricsql.LabelFilter) error {
	kind := kinds[t.Signal.Kind]
	exact := !f.IsRegexp && !f.IsNegative
	switch {
	case f.Label == "__name__":
		return nil
	case f.Label == kind.key || f.Label == labelNamespace && kind.key == labelJob:
		if !exact {
			return p.wrong(f.Label, t.Signal.Name, fmt.Sprintf("of the label %s only = is understood", f.Label), "")
		}
		if f.Label == labelNamespace {
			t.space = f.Value
			return nil
		}
		if t.key != "" {
			return p.wrong(f.Value, t.key, fmt.Sprintf("the label %s is there twice", f.Label), "ask for each with a query of its own")
		}
		t.key = f.Value
		return nil
	case !slices.Contains(kind.filters, f.Label) && !(t.Signal.Models && f.Label == labelModel):
		return p.wrong(f.Label, t.Signal.Name, fmt.Sprintf("%s has no label %.60q", t.Signal.Name, f.Label), setting.Suggest(f.Label, p.labels(t.Signal)))
	}
	if _, twice := t.filter[f.Label]; twice {
		return p.wrong(f.Label, t.Signal.Name, fmt.Sprintf("the label %s is there twice", f.Label), "a regular expression can say both: =~\"a|b\"")
	}
	m := match{value: f.Value, negative: f.IsNegative}
	op := "="
	if f.IsRegexp {
		op = "~"
		pattern, err := regexp.Compile("^(?:" + f.Value + ")$")
		if err != nil {
			return p.wrong(f.Value, f.Label, "it is no regular expression: "+err.Error(), "")
		}
		m.pattern = pattern
	}
	m.text = map[string]string{"= false": "=", "= true": "!=", "~ false": "=~", "~ true": "!~"}[fmt.Sprint(op, " ", f.IsNegative)] + strconv.Quote(f.Value)
	t.filter[f.Label] = m
	return nil
}

func (p *parser) labels(s *Signal) []string {
	all := append([]string{kinds[s.Kind].key}, labelsOf(s.Kind)...)
	if s.Models {
		all = append(all, labelModel)
	}
	return all
}

// complete checks what a whole term must have.
func (p *parser) complete(q *Query, t Term) error {
	kind := kinds[t.Signal.Kind]
	var names []string
	switch kind.key {
	case labelPool:
		names = p.known.Pools
	case labelSource:
		names = p.known.Queues
	}
	switch {
	case t.key == "":
		mend := fmt.Sprintf("write %s{%s=%q}", t.Signal.Name, kind.key, "NAME")
		if len(names) > 0 {
			mend = fmt.Sprintf("write %s{%s=%q}", t.Signal.Name, kind.key, names[0])
		}
		return p.wrong(t.Signal.Name, "", fmt.Sprintf("%s needs the label %s", t.Signal.Name, kind.key), mend)
	case kind.key == labelSource && len(names) == 0:
		return p.wrong(t.key, kind.key, fmt.Sprintf("there is no queue %.60q: no file of queues is configured", t.key), "give the plugin the setting `queues`")
	case kind.key != labelJob && !slices.Contains(names, t.key):
		what := map[string]string{labelPool: "pool %.60q in the inventory", labelSource: "queue %.60q in the file of queues"}[kind.key]
		return p.wrong(t.key, kind.key, fmt.Sprintf("there is no "+what, t.key), setting.Suggest(t.key, names))
	case t.By.how != "" && t.Signal.Aggregate == "" && t.By.how != Sum && t.By.how != Max && t.By.how != Min && t.By.how != Avg:
		return p.wrong(t.By.how, "", fmt.Sprintf("%s is one value: there is nothing for %s to work on", t.Signal.Name, t.By.how), "leave it out")
	}
	if kind.key == labelJob && t.space == "" {
		t.space = "default"
	}
	if t.By.how == "" {
		t.By.how = t.Signal.Aggregate
	} else if t.Signal.Aggregate == "" {
		t.By = reduction{} // the sum of one value
	}
	q.Terms = append(q.Terms, t)
	return nil
}

// String is the query in one form, whatever way it was written in.
func (q Query) String() string {
	text := q.Base()
	if q.Window > 0 {
		text = q.Over.apply(q.Over.how+"_over_time", fmt.Sprintf("%s[%s]", text, q.Window))
	}
	return text
}

// Base is the query without its window: the series that is sampled for it.
func (q Query) Base() string {
	terms := make([]string, len(q.Terms))
	for i, t := range q.Terms {
		terms[i] = t.String()
	}
	text := terms[0]
	if q.Join != "" {
		text = fmt.Sprintf("%s(%s)", q.Join, strings.Join(terms, ", "))
	}
	if !math.IsNaN(q.Above) {
		text += " > " + strconv.FormatFloat(q.Above, 'g', -1, 64)
	}
	return text
}

// String is the term in one form, its aggregation included.
func (t Term) String() string {
	return t.By.apply(t.By.how, t.selector())
}

func (t Term) selector() string {
	labels := []string{fmt.Sprintf("%s=%q", kinds[t.Signal.Kind].key, t.key)}
	if t.space != "" {
		labels = append(labels, fmt.Sprintf("%s=%q", labelNamespace, t.space))
	}
	var more []string
	for label, m := range t.filter {
		more = append(more, label+m.text)
	}
	slices.Sort(more)
	return fmt.Sprintf("%s{%s}", t.Signal.Name, strings.Join(append(labels, more...), ","))
}

// Label is a label with the one value that a query is about.
type Label struct{ Name, Value string }

// Metric is the name and the labels under which a query with a [Query.Record] is
// told to Prometheus: those of its signal or, where it is more than that, the
// query itself.
func (q Query) Metric() (name string, labels []Label) {
	t := q.Terms[0]
	if !q.plain() {
		return "query", []Label{{"query", q.Base()}}
	}
	labels = []Label{{kinds[t.Signal.Kind].key, t.key}}
	if t.space != "" {
		labels = append(labels, Label{labelNamespace, t.space})
	}
	return t.Signal.Name, labels
}

// plain says whether the query is one signal by its own aggregation, without
// filters and without a threshold.
func (q Query) plain() bool {
	t := q.Terms[0]
	return len(q.Terms) == 1 && len(t.filter) == 0 && math.IsNaN(q.Above) && t.By == reduction{how: t.Signal.Aggregate}
}

// Job is the job that the term is about; ok is false where it is about none.
func (t Term) Job() (j JobID, ok bool) {
	return JobID{t.space, t.key}, kinds[t.Signal.Kind].key == labelJob
}

// FromAgents says whether the agents have to be asked for the term.
func (t Term) FromAgents() bool {
	switch t.Signal.Kind {
	case HostKind, GPUKind, InstanceKind, JobKind:
		return true
	}
	return false
}

// Record is the name under which minutes of the query's series are kept, fit
// for a key of Consul; empty where none are. They are kept of what is made of
// signals that are demand alone. A window does not matter, since it is made of
// the samples.
func (q Query) Record() string {
	for _, t := range q.Terms {
		if !t.Signal.Recorded {
			return ""
		}
	}
	if !q.plain() {
		return "query." + hash(q.Base())
	}
	t := q.Terms[0]
	name := t.Signal.Name
	if t.space != "" {
		name += "." + keep(t.space)
	}
	name += "." + keep(t.key)
	const most = 128
	if len(name) > most { // what is cut off is told apart by its hash
		name = fmt.Sprintf("%s~%s", name[:most-17], hash(name))
	}
	return name
}

// Pool is the pool that the term is about; ok is false where it is about none.
func (t Term) Pool() (name string, ok bool) { return t.key, kinds[t.Signal.Kind].key == labelPool }

// Queue is the queue that the term is about; ok is false where it is about none.
func (t Term) Queue() (name string, ok bool) { return t.key, kinds[t.Signal.Kind].key == labelSource }
