package engine

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// exposition is what was read of Prometheus' text format 0.0.4, its metrics by
// name. expfmt of Prometheus reads the same, and is what the tests hold this
// against; it takes four times as long, and servers are read every second.
type exposition struct {
	metrics map[string]*metric
	labels  []label // of a line; used again
	key     []byte  // likewise
}

// metric is one metric, with its series in their order.
type metric struct {
	kind   string // as the type says, in lower case
	series []series
	places map[string]int // of series in a composite, by their labels
}

// series is one series. A histogram's has buckets and no value.
type series struct {
	labels  []label // sorted by name; without le, and a summary's quantile
	value   float64
	buckets []bucket
}

type label struct{ name, value string }

type bucket struct{ bound, count float64 }

// The kinds of metrics. Those that expfmt calls composites have several lines for
// a series.
const (
	kindUntyped   = "untyped"
	kindHistogram = "histogram"
	kindSummary   = "summary"
)

var kinds = []string{"counter", "gauge", kindUntyped, kindHistogram, kindSummary, "gaugehistogram", "gauge_histogram"}

// composite is the label that tells the lines of one series apart, empty for a
// metric of which each line is a series.
func (m *metric) composite() string {
	switch m.kind {
	case kindHistogram, "gaugehistogram", "gauge_histogram":
		return "le"
	case kindSummary:
		return "quantile"
	}
	return ""
}

const blanks = " \t"

// parseExposition reads lines without exemplars and without comments other than
// types.
func parseExposition(text string) (map[string]*metric, error) {
	e := exposition{metrics: map[string]*metric{}}
	for line := range strings.SplitSeq(text, "\n") {
		if line == "" {
			continue
		}
		read := e.add
		if declared, ok := strings.CutPrefix(line, "# TYPE "); ok {
			line, read = declared, e.declare
		}
		if err := read(line); err != nil {
			return nil, fmt.Errorf("not Prometheus' text format: %.100q: %w", line, err)
		}
	}
	return e.metrics, nil
}

// declare reads a name and its type.
func (e *exposition) declare(line string) error {
	name, kind := cutBlanks(line)
	kind = strings.ToLower(kind)
	if kind == "" { // which expfmt takes too
		return nil
	}
	if !slices.Contains(kinds, kind) {
		return errors.New("no type of a metric")
	}
	if e.metrics[name] != nil {
		return errors.New("its type comes twice, or after its series")
	}
	e.metrics[name] = &metric{kind: kind}
	return nil
}

// add reads one line of a series.
func (e *exposition) add(line string) (err error) {
	end := strings.IndexAny(line, "{"+blanks)
	if end < 0 {
		return errors.New("no value")
	}
	name, rest := line[:end], strings.TrimLeft(line[end:], blanks)
	e.labels = e.labels[:0]
	if inner, ok := strings.CutPrefix(rest, "{"); ok {
		if rest, err = e.readLabels(inner); err != nil {
			return err
		}
	}
	number, stamp := cutBlanks(strings.TrimLeft(rest, blanks))
	value, err := parseFloat(number)
	if err != nil {
		return err
	}
	if stamp != "" {
		if _, err := strconv.ParseInt(stamp, 10, 64); err != nil {
			return fmt.Errorf("timestamp: %w", err)
		}
	}
	m, total := e.of(name)
	if by := m.composite(); by != "" {
		return e.addTo(m, by, total, value)
	}
	if err := e.sortLabels(); err != nil {
		return err
	}
	m.series = append(m.series, series{labels: slices.Clone(e.labels), value: value})
	return nil
}

// of is the metric that a name is of, and whether it is the count or the sum of a
// composite.
func (e *exposition) of(name string) (m *metric, total bool) {
	if m := e.metrics[name]; m != nil {
		return m, false
	}
	for _, suffix := range []string{"_count", "_sum", "_bucket"} {
		base, ok := strings.CutSuffix(name, suffix)
		if m := e.metrics[base]; ok && m != nil && m.composite() != "" && (m.kind != kindSummary || suffix != "_bucket") {
			return m, suffix != "_bucket"
		}
	}
	m = &metric{kind: kindUntyped}
	e.metrics[name] = m
	return m, false
}

// addTo adds a line to a series of a composite. Of all its lines only buckets are
// kept.
func (e *exposition) addTo(m *metric, by string, total bool, value float64) error {
	bound := math.NaN()
	for _, l := range e.labels {
		if l.name != by {
			continue
		}
		var err error
		if bound, err = parseFloat(l.value); err != nil {
			return fmt.Errorf("label %s: %w", by, err)
		}
	}
	e.labels = slices.DeleteFunc(e.labels, func(l label) bool { return l.name == by })
	if err := e.sortLabels(); err != nil {
		return err
	}
	e.key = appendKey(e.key[:0], e.labels)
	at, known := m.places[string(e.key)]
	if !known {
		if m.places == nil {
			m.places = map[string]int{}
		}
		at = len(m.series)
		m.places[string(e.key)] = at
		m.series = append(m.series, series{labels: slices.Clone(e.labels)})
	}
	if by != "le" || total || math.IsNaN(bound) {
		return nil
	}
	if value < 0 {
		return errors.New("a negative bucket")
	}
	m.series[at].buckets = append(m.series[at].buckets, bucket{bound, value})
	return nil
}

// readLabels reads the labels after the brace, and returns what follows them.
func (e *exposition) readLabels(text string) (rest string, err error) {
	for {
		text = strings.TrimLeft(text, blanks)
		if rest, ok := strings.CutPrefix(text, "}"); ok {
			return rest, nil
		}
		var l label
		if inner, ok := strings.CutPrefix(text, `"`); ok { // as Prometheus 3 writes names with other letters
			if l.name, text, err = unquote(inner); err != nil {
				return "", err
			}
		} else {
			end := strings.IndexFunc(text, func(c rune) bool {
				return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_'
			})
			l.name, text = text[:max(0, end)], text[max(0, end):]
		}
		inner, equals := strings.CutPrefix(strings.TrimLeft(text, blanks), "=")
		inner, quoted := strings.CutPrefix(strings.TrimLeft(inner, blanks), `"`)
		if l.name == "" || !equals || !quoted {
			return "", errors.New(`a label is not name="value"`)
		}
		if l.value, text, err = unquote(inner); err != nil {
			return "", err
		}
		e.labels = append(e.labels, l)
		text = strings.TrimLeft(text, blanks)
		if next, ok := strings.CutPrefix(text, ","); ok {
			text = next
		} else if !strings.HasPrefix(text, "}") {
			return "", errors.New("labels without an end")
		}
	}
}

// unquote reads what stands in quotes, after the first, and returns what follows.
func unquote(text string) (value, rest string, err error) {
	end := strings.IndexAny(text, `"\`)
	if end < 0 {
		return "", "", errors.New("a quote without an end")
	}
	if text[end] == '"' {
		value, rest = text[:end], text[end+1:]
	} else if value, rest, err = unescape(text); err != nil {
		return "", "", err
	}
	if !utf8.ValidString(value) {
		return "", "", errors.New("a label that is not UTF-8")
	}
	return value, rest, nil
}

// unescape is unquote for a text with backslashes.
func unescape(text string) (value, rest string, err error) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == '"' {
			return b.String(), text[i+1:], nil
		}
		if c == '\\' {
			if i++; i == len(text) {
				break
			}
			switch c = text[i]; c {
			case '\\', '"':
			case 'n':
				c = '\n'
			default:
				return "", "", fmt.Errorf(`\%c is nothing`, c)
			}
		}
		b.WriteByte(c)
	}
	return "", "", errors.New("a quote without an end")
}

// sortLabels brings the labels of a line in the order of their names.
func (e *exposition) sortLabels() error {
	slices.SortFunc(e.labels, func(a, b label) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(e.labels); i++ {
		if e.labels[i].name == e.labels[i-1].name {
			return errors.New("a label twice")
		}
	}
	return nil
}

// appendKey appends what tells sorted labels from others. No label has its
// separator, which is not UTF-8.
func appendKey(key []byte, labels []label) []byte {
	for _, l := range labels {
		key = append(append(key, l.name...), 0xff)
		key = append(append(key, l.value...), 0xff)
	}
	return key
}

// cutBlanks cuts a text at the first blanks.
func cutBlanks(text string) (before, after string) {
	end := strings.IndexAny(text, blanks)
	if end < 0 {
		return text, ""
	}
	return text[:end], strings.Trim(text[end:], blanks)
}

// parseFloat reads a number without the forms that only Go has.
func parseFloat(text string) (float64, error) {
	if strings.ContainsAny(text, "pP_") {
		return 0, fmt.Errorf("%.20q is no number", text)
	}
	return strconv.ParseFloat(text, 64)
}
