package engine

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Bounds on what a server may say. An exposition beyond the first three is
// refused as a whole.
const (
	MaxBytes  = 4 << 20  // of an exposition or a document
	MaxLine   = 16 << 10 // bytes of a line
	MaxLines  = 50_000
	maxSeries = 1024 // of one metric
	maxBounds = 256  // buckets of a histogram
	maxModels = 8
	maxName   = 256 // bytes of a model's name
)

// Flaw names something wrong with what a server said. The measure that it is
// about is absent then.
type Flaw string

// The flaws.
const (
	FlawNotANumber Flaw = "not_a_number" // NaN or infinite
	FlawNegative   Flaw = "negative"
	FlawTooLarge   Flaw = "too_large"  // beyond what the measure can be
	FlawDuplicate  Flaw = "duplicate"  // two series with the same labels and different values
	FlawSeries     Flaw = "series"     // more series or buckets than are read
	FlawType       Flaw = "type"       // another type of metric than the measure's
	FlawHistogram  Flaw = "histogram"  // buckets that do not grow, or none for infinity
	FlawReset      Flaw = "reset"      // a counter that went back: the server started anew
	FlawExposition Flaw = "exposition" // not in the format that was expected, or out of bounds
	FlawScrape     Flaw = "scrape"     // no answer, or none that could be used
)

// Flaws says what each flaw is, in the order of the reference page.
var Flaws = []struct {
	Flaw Flaw
	Doc  string
}{
	{FlawScrape, "No answer in time, or another than 200. The load keeps its last values, which grow stale."},
	{FlawExposition, "The answer is not in Prometheus' text format, or no JSON, or beyond 4 MiB, 50,000 lines or 16 KiB a line. Nothing of it is taken."},
	{FlawNotANumber, "A value is NaN or infinite. The measure is absent."},
	{FlawNegative, "A value is below zero. The measure is absent."},
	{FlawTooLarge, "A value is beyond what it can be, as a share above 1. The measure is absent."},
	{FlawDuplicate, "Two series have the same labels and different values. The measure is absent."},
	{FlawSeries, "A metric has more than 1,024 series, or a histogram more than 256 buckets. The measure is absent."},
	{FlawType, "A metric is of another type than it should be. The measure is absent."},
	{FlawHistogram, "The buckets of a histogram do not grow, or there is none for infinity. The measure is absent."},
	{FlawReset, "A counter went back, as when a server starts anew. Its window starts anew too."},
}

// Reading is what one exposition or document says.
type Reading struct {
	Gauges     map[Measure]float64
	Counters   map[Measure]float64
	Histograms map[Measure]Buckets
	Models     []string     // that labels name, sorted
	Flaws      map[Flaw]int // what was left out, and how often
}

// Buckets are a cumulative histogram: so many observations up to each bound,
// in seconds. The last bound is infinite.
type Buckets struct {
	Bounds []float64
	Counts []float64
}

func newReading() Reading {
	return Reading{
		Gauges: map[Measure]float64{}, Counters: map[Measure]float64{}, Histograms: map[Measure]Buckets{},
		Flaws: map[Flaw]int{},
	}
}

// ParseExposition reads the measures of a profile from Prometheus' text
// format. An error means that nothing can be taken from it.
func ParseExposition(r io.Reader, p Profile) (Reading, error) {
	wanted := map[string]bool{} // names of metrics
	for _, selectors := range p.From {
		for _, s := range selectors {
			wanted[s.Name] = true
		}
	}
	tools := siftings.Get().(*sifting)
	defer tools.done()
	if _, err := tools.sift(r, wanted, false); err != nil {
		return Reading{}, err
	}
	metrics, err := parseExposition(tools.text.String())
	if err != nil {
		return Reading{}, err
	}
	reading := newReading()
	models := map[string]bool{}
	for _, m := range Measures {
		for _, s := range p.From[m.Measure] {
			found := metrics[s.Name]
			picked := s.pick(found)
			if len(picked) == 0 {
				continue
			}
			for _, one := range picked {
				noteModel(models, one, p.ModelLabels)
			}
			reading.take(m.Measure, s, found, picked)
			break
		}
	}
	reading.Models = names(models)
	return reading, nil
}

// ParseNames reads the names of all metrics in an exposition.
func ParseNames(r io.Reader) ([]string, error) {
	tools := siftings.Get().(*sifting)
	defer tools.done()
	return tools.sift(r, nil, true)
}

// sifting is what it takes to read an exposition. It is used again: servers are
// read every second.
type sifting struct {
	lines *bufio.Reader
	text  bytes.Buffer // the lines that were wanted
}

var siftings = sync.Pool{New: func() any {
	return &sifting{lines: bufio.NewReaderSize(nil, MaxLine)}
}}

// done gives the tools back, unless they grew far beyond what a server commonly
// says.
func (t *sifting) done() {
	if t.text.Cap() <= 256<<10 {
		siftings.Put(t)
	}
}

// sift keeps the lines of the wanted metrics, without exemplars, and returns the names of all if it is to collect them. It reads
// every line and parses none: most servers say far more than is wanted.
func (t *sifting) sift(r io.Reader, wanted map[string]bool, collect bool) (seen []string, err error) {
	lines := t.lines
	lines.Reset(io.LimitReader(r, MaxBytes+1))
	defer lines.Reset(nil)
	t.text.Reset()
	names := map[string]bool{}
	total := 0
	var last []byte // name of the line before, of which there are commonly more
	keep := false
	for n := 1; ; n++ {
		line, err := lines.ReadSlice('\n')
		total += len(line)
		switch {
		case total > MaxBytes:
			return nil, fmt.Errorf("more than %d bytes", MaxBytes)
		case n > MaxLines:
			return nil, fmt.Errorf("more than %d lines", MaxLines)
		case errors.Is(err, bufio.ErrBufferFull):
			return nil, fmt.Errorf("line %d has more than %d bytes", n, MaxLine)
		case err != nil && !errors.Is(err, io.EOF):
			return nil, err
		}
		if len(last) == 0 || !about(line, last) {
			name := nameIn(line)
			last = append(last[:0], name...)
			keep = wanted[string(name)] || wanted[string(withoutSuffix(name))]
			if collect && len(name) > 0 && len(names) < maxSeries {
				names[string(name)] = true
			}
		}
		if keep {
			t.text.Write(bytes.TrimRight(withoutExemplar(line), " \t\r\n"))
			t.text.WriteByte('\n')
		}
		if err != nil {
			break
		}
	}
	for n := range names {
		seen = append(seen, n)
	}
	slices.Sort(seen)
	return seen, nil
}

// about says whether a line is a series of a name.
func about(line, name []byte) bool {
	return len(line) > len(name) && endsName(line[len(name)]) && bytes.HasPrefix(line, name)
}

func endsName(c byte) bool { return c == '{' || c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// nameIn is the name that a line is about. Comments other than types are about
// none.
func nameIn(line []byte) []byte {
	if len(line) > 0 && line[0] == '#' {
		rest, ok := bytes.CutPrefix(line, []byte("# TYPE "))
		if !ok {
			return nil
		}
		line = rest
	}
	for i, c := range line {
		if endsName(c) {
			return line[:i]
		}
	}
	return line
}

// withoutSuffix is the metric that a name would be of if it were in a histogram.
func withoutSuffix(name []byte) []byte {
	for _, suffix := range []string{"_bucket", "_count", "_sum"} {
		if cut, ok := bytes.CutSuffix(name, []byte(suffix)); ok {
			return cut
		}
	}
	return name
}

// withoutExemplar cuts off what follows the value after a #, as OpenMetrics
// allows.
func withoutExemplar(line []byte) []byte {
	if bytes.HasPrefix(line, []byte("#")) {
		return line
	}
	quoted := false
	for i := 0; i < len(line); i++ {
		switch {
		case quoted && line[i] == '\\':
			i++
		case line[i] == '"':
			quoted = !quoted
		case !quoted && line[i] == '#':
			return line[:i]
		}
	}
	return line
}

// pick is the series of a metric that a selector is about.
func (s Selector) pick(m *metric) []series {
	if m == nil {
		return nil
	}
	if len(s.Match) == 0 {
		return m.series
	}
	var picked []series
	for _, one := range m.series {
		if s.picks(one) {
			picked = append(picked, one)
		}
	}
	return picked
}

func (s Selector) picks(one series) bool {
	for name, value := range s.Match {
		if !slices.Contains(one.labels, label{name, value}) {
			return false
		}
	}
	return true
}

func noteModel(models map[string]bool, one series, names []string) {
	for _, l := range one.labels {
		if slices.Contains(names, l.name) && l.value != "" && len(models) < maxModels && !models[l.value] {
			models[strings.Clone(l.value)] = true // which outlives the rest of the exposition
		}
	}
}

// names are those of a set, sorted, none of them longer than is bearable.
func names(set map[string]bool) []string {
	var list []string
	for n := range set {
		if len(n) <= maxName {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list
}

// take folds series of a metric into a measure, unless one of them is flawed.
func (r *Reading) take(m Measure, s Selector, of *metric, all []series) {
	if len(all) > maxSeries {
		r.Flaws[FlawSeries]++
		return
	}
	kind, most := kindOf(m)
	if (kind == Histogram) != (of.kind == kindHistogram) || kind != Histogram && of.composite() != "" {
		r.Flaws[FlawType]++
		return
	}
	if kind == Histogram {
		r.histogram(m, s, all)
		return
	}
	values := map[string]float64{}
	for _, one := range all {
		key := string(appendKey(nil, one.labels))
		if before, there := values[key]; there && before != one.value {
			r.Flaws[FlawDuplicate]++
			return
		}
		values[key] = one.value
	}
	var list []float64
	for _, v := range values {
		list = append(list, v*cmp.Or(s.Scale, 1))
	}
	r.number(m, kind, most, s.Fold, list)
}

// number folds values into a gauge or a counter, unless one of them is flawed.
func (r *Reading) number(m Measure, kind Kind, most float64, fold Fold, values []float64) {
	for _, v := range values {
		switch {
		case math.IsNaN(v) || math.IsInf(v, 0):
			r.Flaws[FlawNotANumber]++
			return
		case v < 0:
			r.Flaws[FlawNegative]++
			return
		}
	}
	slices.Sort(values) // so that the sum does not depend on their order
	folded := 0.0
	switch fold {
	case Max:
		folded = values[len(values)-1]
	case Min:
		folded = values[0]
	default:
		for _, v := range values {
			folded += v
		}
	}
	switch {
	case math.IsInf(folded, 0), kind == Gauge && folded > most:
		r.Flaws[FlawTooLarge]++
	case kind == Gauge:
		r.Gauges[m] = folded
	default:
		r.Counters[m] = folded
	}
}

// histogram adds the buckets of several series up.
func (r *Reading) histogram(m Measure, s Selector, all []series) {
	var sum Buckets
	for _, one := range all {
		b, flaw := cumulative(one.buckets, cmp.Or(s.Scale, 1))
		if flaw != "" {
			r.Flaws[flaw]++
			return
		}
		switch {
		case sum.Bounds == nil:
			sum = b
		case !slices.Equal(sum.Bounds, b.Bounds):
			r.Flaws[FlawHistogram]++
			return
		default:
			for i := range b.Counts {
				sum.Counts[i] += b.Counts[i]
			}
		}
	}
	r.Histograms[m] = sum
}

// cumulative are the buckets of one series, in the order of their bounds.
func cumulative(buckets []bucket, scale float64) (Buckets, Flaw) {
	if len(buckets) > maxBounds {
		return Buckets{}, FlawSeries
	}
	slices.SortStableFunc(buckets, func(a, b bucket) int { return cmp.Compare(a.bound, b.bound) })
	b := Buckets{make([]float64, 0, len(buckets)), make([]float64, 0, len(buckets))}
	for _, one := range buckets {
		bound, last := one.bound*scale, len(b.Bounds)-1
		switch {
		case math.IsNaN(bound) || math.IsNaN(one.count) || math.IsInf(one.count, 0):
			return Buckets{}, FlawNotANumber
		case last >= 0 && bound == b.Bounds[last] && one.count != b.Counts[last]:
			return Buckets{}, FlawDuplicate
		case last >= 0 && bound == b.Bounds[last]:
			continue
		case last >= 0 && one.count < b.Counts[last]:
			return Buckets{}, FlawHistogram
		}
		b.Bounds, b.Counts = append(b.Bounds, bound), append(b.Counts, one.count)
	}
	if len(b.Bounds) == 0 || !math.IsInf(b.Bounds[len(b.Bounds)-1], 1) {
		return Buckets{}, FlawHistogram
	}
	return b, ""
}

// ParseDocument reads the measures of a profile from a JSON document.
func ParseDocument(r io.Reader, p Profile) (Reading, error) {
	doc, err := decode(r)
	if err != nil {
		return Reading{}, err
	}
	reading := newReading()
	for _, m := range Measures {
		for _, s := range p.From[m.Measure] {
			found := point(doc, s.Name)
			if len(found) == 0 {
				continue
			}
			if reading.document(m.Measure, s, found) {
				break
			}
		}
	}
	if p.ModelNames != "" && p.Models == p.JSON {
		reading.Models = texts(doc, p.ModelNames)
	}
	return reading, nil
}

// document folds what a pointer found into a measure. It is false if nothing
// there is a number.
func (r *Reading) document(m Measure, s Selector, found []any) bool {
	kind, most := kindOf(m)
	if kind == Histogram {
		r.Flaws[FlawType]++
		return true
	}
	var values []float64
	for _, f := range found {
		switch f := f.(type) {
		case nil: // not known yet
			return false
		case float64:
			values = append(values, f*cmp.Or(s.Scale, 1))
		case bool:
			if f {
				values = append(values, 1)
			} else {
				values = append(values, 0)
			}
		case []any:
			if !s.Len {
				r.Flaws[FlawType]++
				return true
			}
			values = append(values, float64(len(f)))
		default:
			r.Flaws[FlawType]++
			return true
		}
	}
	if len(values) > maxSeries {
		r.Flaws[FlawSeries]++
		return true
	}
	r.number(m, kind, most, s.Fold, values)
	return true
}

// decode reads one JSON document of bounded size.
func decode(r io.Reader) (any, error) {
	limited := &io.LimitedReader{R: r, N: MaxBytes + 1}
	var doc any
	err := json.NewDecoder(limited).Decode(&doc)
	switch {
	case limited.N <= 0:
		return nil, fmt.Errorf("more than %d bytes", MaxBytes)
	case err != nil:
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	return doc, nil
}

// point follows a JSON pointer (RFC 6901), in which * is every element of an
// array. What is not there is not found.
func point(doc any, pointer string) []any {
	at := []any{doc}
	if pointer == "/" || pointer == "" {
		return at
	}
	for token := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		token = strings.ReplaceAll(strings.ReplaceAll(token, "~1", "/"), "~0", "~")
		var next []any
		for _, v := range at {
			switch v := v.(type) {
			case map[string]any:
				if inner, there := v[token]; there {
					next = append(next, inner)
				}
			case []any:
				if token == "*" {
					next = append(next, v...)
				} else if i, err := strconv.Atoi(token); err == nil && i >= 0 && i < len(v) {
					next = append(next, v[i])
				}
			}
		}
		at = next
	}
	return at
}

// texts are the texts that a pointer finds, a few of them, sorted.
func texts(doc any, pointer string) []string {
	set := map[string]bool{}
	for _, v := range point(doc, pointer) {
		if text, ok := v.(string); ok && text != "" && len(set) < maxModels {
			set[text] = true
		}
	}
	return names(set)
}
