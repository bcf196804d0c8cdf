package sim

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Trace is demand: how many requests arrived in each minute.
type Trace struct {
	Name     string
	Start    time.Time // of the first minute
	Arrivals []float64 // requests in each minute
	Tokens   []Tokens  // per minute, parallel to Arrivals; nil where unknown
	Notes    []string  // what the reader had to assume, one sentence each
}

// Tokens is what the requests of one minute read and wrote, in tokens.
type Tokens struct{ In, Out float64 }

// Duration is the length of the trace.
func (t Trace) Duration() time.Duration { return time.Duration(len(t.Arrivals)) * time.Minute }

// Info describes the trace in figures.
func (t Trace) Info() TraceInfo {
	sum, most := 0.0, 0.0
	for _, a := range t.Arrivals {
		sum += a
		most = max(most, a)
	}
	n := float64(len(t.Arrivals))
	return TraceInfo{Name: t.Name, Start: t.Start, Days: n / (24 * 60), Requests: sum,
		MeanPerMin: sum / max(n, 1), MaxPerMin: most, P999PerMin: t.quantile(0.999)}
}

// quantile returns the q-quantile of the minutes, by rank.
func (t Trace) quantile(q float64) float64 {
	if len(t.Arrivals) == 0 {
		return 0
	}
	s := slices.Clone(t.Arrivals)
	slices.Sort(s)
	return s[min(int(q*float64(len(s))), len(s)-1)]
}

// Limits of what is read from outside.
const (
	maxMinutes  = 2 * 366 * 24 * 60 // two years
	maxLine     = 64 << 10          // bytes
	maxArrivals = 1e9               // requests in one row
	maxMissing  = 0.2               // share of the minutes
)

// ErrTrace marks a trace that cannot be replayed. The text names the line.
var ErrTrace = errors.New("invalid trace")

// DefaultStart is the start of traces that do not tell theirs: a Monday.
var DefaultStart = time.Date(2024, time.January, 1, 0, 0, 0, 0, time.UTC)

// ReadTraceFile is [ReadTrace] of a file, whose trace is called by the file's name.
func ReadTraceFile(path string) (Trace, error) {
	f, err := os.Open(path)
	if err != nil {
		return Trace{}, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	return ReadTrace(f, filepath.Base(path))
}

// ReadTrace reads demand as CSV or as JSON lines; name stands for the file in
// the trace and in errors, which wrap [ErrTrace] and begin with "name:line:".
//
// CSV has the columns offset_s, arrivals and, optionally, input_tokens and
// output_tokens, with or without a header line of these names. Lines that
// begin with # are comments. A JSON line is an object with the same names, or
// one request as {"timestamp": ms, "input_length": n, "output_length": n}, the
// form of the Mooncake traces; other members are ignored.
//
// Rows are in ascending offset. Rows closer than a minute are added up to
// minutes and rows further apart, at one usual distance, are spread evenly
// over theirs. Minutes that no row covers are filled along a line between
// their neighbours, which [Trace.Notes] tells; more than a fifth missing is an
// error. Memory is in proportion to the minutes, not the rows.
func ReadTrace(r io.Reader, name string) (Trace, error) {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 4096), maxLine)
	b := &builder{name: name}
	var parse func(string) (row, bool, error)
	for sc.Scan() {
		b.line++
		text := strings.TrimSpace(sc.Text())
		if b.line == 1 {
			text = strings.TrimPrefix(text, "\ufeff")
		}
		if text == "" || text[0] == '#' {
			continue
		}
		if parse == nil {
			parse = parseCSV(&b.columns)
			if text[0] == '{' {
				parse = parseJSON
			}
		}
		v, ok, err := parse(text)
		if err == nil && ok {
			err = b.add(v)
		}
		if err != nil {
			return Trace{}, b.errorf("%w", err)
		}
	}
	if err := sc.Err(); err != nil {
		b.line++
		if errors.Is(err, bufio.ErrTooLong) {
			err = fmt.Errorf("the line is longer than %d bytes", maxLine)
		}
		return Trace{}, b.errorf("%w", err)
	}
	return b.trace()
}

// Rows makes a trace of rows that do not come from a file. Its errors wrap
// [ErrTrace] and begin with "name:number:".
type Rows struct{ b builder }

// NewRows returns a trace to be filled.
func NewRows(name string) *Rows { return &Rows{builder{name: name}} }

// Add takes in the next row: so many requests from offset seconds on.
func (r *Rows) Add(offset, arrivals float64) error {
	r.b.line++
	if err := r.b.add(row{offset: offset, arrivals: arrivals}); err != nil {
		return r.b.errorf("%w", err)
	}
	return nil
}

// Trace is what the rows are, by the rules of [ReadTrace].
func (r *Rows) Trace() (Trace, error) { return r.b.trace() }

// row is one line of a trace.
type row struct {
	offset   float64 // s
	arrivals float64
	tokens   Tokens
	request  bool // one request, not a count: what is not there did not happen
}

// builder adds rows up to minutes.
type builder struct {
	name    string
	line    int
	columns int

	rows     int
	first    row // kept back until the distance of rows is known
	last     float64
	step     float64 // distance of the first two rows, s
	requests bool
	tokens   bool
	minutes  []minute
}

type minute struct {
	arrivals float64
	tokens   Tokens
	seen     bool
}

func (b *builder) errorf(format string, args ...any) error {
	return fmt.Errorf("%s:%d: %w: %w", b.name, b.line, ErrTrace, fmt.Errorf(format, args...))
}

func (b *builder) add(v row) error {
	if err := v.validate(); err != nil {
		return err
	}
	b.rows++
	b.requests = b.requests || v.request
	b.tokens = b.tokens || v.tokens != Tokens{}
	switch {
	case b.rows == 1:
		b.first, b.last = v, v.offset
		return nil
	case v.offset < b.last:
		return fmt.Errorf("offset_s %g comes after %g: sort the rows", v.offset, b.last)
	case v.offset == b.last && !v.request:
		return fmt.Errorf("offset_s %g is there twice", v.offset)
	case b.rows == 2:
		b.step = 60
		if !v.request {
			b.step = v.offset - b.first.offset
		}
		if err := b.place(b.first); err != nil {
			return err
		}
	}
	b.last = v.offset
	return b.place(v)
}

func (v row) validate() error {
	for _, c := range []struct {
		name  string
		value float64
		limit float64
	}{{"offset_s", v.offset, math.MaxInt64 / 1e9}, {"arrivals", v.arrivals, maxArrivals},
		{"input_tokens", v.tokens.In, 1e15}, {"output_tokens", v.tokens.Out, 1e15}} {
		switch {
		case math.IsNaN(c.value) || math.IsInf(c.value, 0):
			return fmt.Errorf("%s is %v: leave a missing row out", c.name, c.value)
		case c.value < 0:
			return fmt.Errorf("%s %g is negative", c.name, c.value)
		case c.value > c.limit:
			return fmt.Errorf("%s %g is above %g", c.name, c.value, c.limit)
		}
	}
	return nil
}

// place adds a row to the minute, or minutes, that it covers.
func (b *builder) place(v row) error {
	at := v.offset - b.first.offset
	n := 1
	if b.step > 60 {
		n = int(math.Round(b.step / 60))
	}
	from := int(at / 60)
	if from+n > maxMinutes {
		return fmt.Errorf("offset_s %g: the trace is longer than %d days", v.offset, maxMinutes/(24*60))
	}
	for len(b.minutes) < from+n {
		b.minutes = append(b.minutes, minute{})
	}
	for i := from; i < from+n; i++ {
		m := &b.minutes[i]
		m.arrivals += v.arrivals / float64(n)
		m.tokens.In += v.tokens.In / float64(n)
		m.tokens.Out += v.tokens.Out / float64(n)
		m.seen = true
	}
	return nil
}

func (b *builder) trace() (Trace, error) {
	switch b.rows {
	case 0:
		return Trace{}, b.errorf("no rows: expected CSV with offset_s,arrivals or JSON lines")
	case 1:
		return Trace{}, b.errorf("one row only: two are needed to know the time between them")
	}
	t := Trace{Name: b.name, Start: DefaultStart, Arrivals: make([]float64, len(b.minutes))}
	if b.tokens {
		t.Tokens = make([]Tokens, len(b.minutes))
	}
	missing := 0
	for i, m := range b.minutes {
		t.Arrivals[i] = m.arrivals
		if b.tokens {
			t.Tokens[i] = m.tokens
		}
		if !m.seen && !b.requests {
			missing++
		}
	}
	if missing > 0 {
		share := float64(missing) / float64(len(b.minutes))
		if share > maxMissing {
			return Trace{}, b.errorf("no row covers %d of %d minutes: that is more hole than demand", missing, len(b.minutes))
		}
		b.fill(&t)
		t.Notes = append(t.Notes, fmt.Sprintf("%d of %d minutes are not in the trace and were filled along a line between their neighbours",
			missing, len(b.minutes)))
	}
	if slices.Max(t.Arrivals) == 0 {
		return Trace{}, b.errorf("there is not one arrival in %d minutes", len(t.Arrivals))
	}
	return t, nil
}

// fill draws a line over each hole. The first and the last minute are there.
func (b *builder) fill(t *Trace) {
	for i := 1; i < len(b.minutes); i++ {
		if b.minutes[i].seen {
			continue
		}
		j := i
		for !b.minutes[j].seen {
			j++
		}
		for k := i; k < j; k++ {
			f := float64(k-i+1) / float64(j-i+1)
			t.Arrivals[k] = t.Arrivals[i-1] + f*(t.Arrivals[j]-t.Arrivals[i-1])
			if t.Tokens != nil {
				p, q := t.Tokens[i-1], t.Tokens[j]
				t.Tokens[k] = Tokens{p.In + f*(q.In-p.In), p.Out + f*(q.Out-p.Out)}
			}
		}
		i = j
	}
}

var header = []string{"offset_s", "arrivals", "input_tokens", "output_tokens"}

// parseCSV returns a parser of CSV lines. The first one sets the number of
// columns, and may be the header.
func parseCSV(columns *int) func(string) (row, bool, error) {
	return func(text string) (v row, ok bool, err error) {
		cells := strings.Split(text, ",")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		first := *columns == 0
		if first {
			if len(cells) < 2 || len(cells) > len(header) {
				return v, false, fmt.Errorf("%d columns: expected %s[,%s]", len(cells), strings.Join(header[:2], ","), strings.Join(header[2:], ","))
			}
			*columns = len(cells)
		}
		if len(cells) != *columns {
			return v, false, fmt.Errorf("%d columns where the first line has %d", len(cells), *columns)
		}
		if first && cells[0] == header[0] {
			for i, c := range cells {
				if c != header[i] {
					return v, false, fmt.Errorf("column %d is called %q: expected %q", i+1, c, header[i])
				}
			}
			return v, false, nil
		}
		for i, into := range []*float64{&v.offset, &v.arrivals, &v.tokens.In, &v.tokens.Out}[:len(cells)] {
			if *into, err = strconv.ParseFloat(cells[i], 64); err != nil {
				return v, false, fmt.Errorf("%s %q is not a number", header[i], cells[i])
			}
		}
		return v, true, nil
	}
}

func parseJSON(text string) (v row, ok bool, err error) {
	var o struct {
		Offset    *float64 `json:"offset_s"`
		Arrivals  *float64 `json:"arrivals"`
		In        float64  `json:"input_tokens"`
		Out       float64  `json:"output_tokens"`
		Timestamp *float64 `json:"timestamp"`
		InLength  float64  `json:"input_length"`
		OutLength float64  `json:"output_length"`
	}
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return v, false, fmt.Errorf("not a JSON object: %w", err)
	}
	switch {
	case o.Offset != nil && o.Arrivals != nil:
		return row{*o.Offset, *o.Arrivals, Tokens{o.In, o.Out}, false}, true, nil
	case o.Timestamp != nil && o.Offset == nil:
		return row{*o.Timestamp / 1000, 1, Tokens{o.InLength, o.OutLength}, true}, true, nil
	}
	return v, false, errors.New(`neither "offset_s" with "arrivals" nor "timestamp" is there`)
}
