package record

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/jsonl"
)

// ErrLog marks what is no decision log, or a broken one. The text names the
// file and the line.
var ErrLog = errors.New("invalid decision log")

// Read is a decision as the log has it.
type Read struct {
	Entry
	Place   string // "file:line"
	Program string // what wrote it

	// Exact is that the series are those that the decision saw, to the last
	// sample.
	Exact bool
	// Unknown names rules that this version does not have.
	Unknown []string
	// Lost is how many decisions before this one were not written.
	Lost int
}

// Contents is what a log had besides its decisions.
type Contents struct {
	// Demand, Load and Queue are all samples of each stream.
	Series map[Stream]Series
	Notes  []string // what was left out, one sentence each
}

// Series is what a decision may see, over the whole log.
type Series struct{ Demand, Load, Queue demand.Series }

const (
	maxStreams = 10_000
	maxTotal   = 20_000_000 // samples of all streams
	maxOlder   = 1000       // files
)

// ReadFile reads a log and the older files beside it, oldest first, and calls
// each for each decision in the order of the lines. The decision's series are
// valid beyond the call. An error of each ends the reading and is returned.
func ReadFile(path string, each func(Read) error) (*Contents, error) {
	d := newReader(each)
	var files []*os.File
	defer func() {
		for _, f := range files {
			_ = f.Close() // read only: there is nothing to lose
		}
	}()
	// The newest first: a rotation meanwhile shows a file twice rather than
	// never, and the second opening finds the same one.
	for i := range maxOlder {
		f, err := os.Open(jsonl.Numbered(path, i))
		if errors.Is(err, fs.ErrNotExist) && i > 0 {
			break
		}
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	slices.Reverse(files)
	for i, f := range files {
		if i > 0 && same(f, files[i-1]) {
			continue
		}
		if err := d.read(f, f.Name()); err != nil {
			return nil, err
		}
	}
	return d.contents(), nil
}

func same(a, b *os.File) bool {
	ai, aerr := a.Stat()
	bi, berr := b.Stat()
	return aerr == nil && berr == nil && os.SameFile(ai, bi)
}

// ReadLog is [ReadFile] for one stream of lines; name stands for the file.
func ReadLog(r io.Reader, name string, each func(Read) error) (*Contents, error) {
	d := newReader(each)
	if err := d.read(r, name); err != nil {
		return nil, err
	}
	return d.contents(), nil
}

// IsLog reports whether a file that begins with these bytes is a decision log.
func IsLog(begin []byte) bool {
	return bytes.HasPrefix(bytes.TrimSpace(begin), []byte(`{"log":"`+magic+`"`))
}

// reader rebuilds series while it reads.
type reader struct {
	each    func(Read) error
	series  map[Stream]*Series
	total   int
	program string
	notes   []string
	headed  bool
}

func newReader(each func(Read) error) *reader {
	return &reader{each: each, series: map[Stream]*Series{}}
}

func (d *reader) contents() *Contents {
	c := &Contents{Series: map[Stream]Series{}, Notes: d.notes}
	for k, v := range d.series {
		c.Series[k] = *v
	}
	return c
}

// errEach marks errors that are not the log's.
type errEach struct{ error }

func (d *reader) read(r io.Reader, name string) error {
	b := bufio.NewReaderSize(r, 64<<10)
	d.headed = false
	for n := 1; ; n++ {
		text, whole, end := nextLine(b)
		place := fmt.Sprintf("%s:%d", name, n)
		if end != nil && !errors.Is(end, io.EOF) {
			return fmt.Errorf("%s: %w", place, end)
		}
		if len(bytes.TrimSpace(text)) > 0 {
			err := d.line(text, place)
			own := errEach{}
			switch {
			case err == nil:
			case errors.As(err, &own):
				return own.error
			case !whole:
				d.notes = append(d.notes, place+": the last line is not whole and was left out: its writer was killed, or is writing it")
			case headerNext(b):
				d.notes = append(d.notes, place+": the line was torn by the end of its writer and was left out")
			default:
				return fmt.Errorf("%s: %w: %w", place, ErrLog, err)
			}
		}
		if end != nil { // it is io.EOF
			return nil //nolint:nilerr
		}
	}
}

func (d *reader) line(text []byte, place string) error {
	v, err := parse(text)
	if err != nil {
		return err
	}
	return d.take(v, place)
}

// headerNext reports whether the log was opened anew after this line.
func headerNext(b *bufio.Reader) bool {
	next, _ := b.Peek(len(magic) + 16) // shorter at the end of the file
	return IsLog(next)
}

// nextLine returns the next line, and whether it has its end. The last one
// comes with io.EOF.
func nextLine(b *bufio.Reader) (text []byte, whole bool, err error) {
	for {
		part, err := b.ReadSlice('\n')
		text = append(text, part...)
		if len(text) > maxLine {
			return nil, false, fmt.Errorf("%w: the line is longer than %d bytes", ErrLog, maxLine)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return text, err == nil, err
		}
	}
}

func parse(text []byte) (line, error) {
	var v line
	dec := json.NewDecoder(bytes.NewReader(text))
	if err := dec.Decode(&v); err != nil {
		return line{}, fmt.Errorf("not a JSON object of this format: %w", err)
	}
	if v.Log == "" && v.Version == 0 {
		// A header of another version may have members of its own.
		strict := json.NewDecoder(bytes.NewReader(text))
		strict.DisallowUnknownFields()
		if err := strict.Decode(&line{}); err != nil {
			return line{}, err
		}
	}
	if rest := bytes.TrimSpace(text[dec.InputOffset():]); len(rest) > 0 {
		return line{}, fmt.Errorf("%d bytes after the object", len(rest))
	}
	return v, nil
}

// take follows one line.
func (d *reader) take(v line, place string) error {
	if v.Log != "" {
		if v.Log != magic {
			return fmt.Errorf("the header says %q: expected %q", v.Log, magic)
		}
		if v.Version < 1 || v.Version > version {
			return errEach{fmt.Errorf("%s: %w: it has version %d of the format, by %q, and this gpupool reads up to version %d: use one that is as new",
				place, ErrLog, v.Version, v.Program, version)}
		}
		d.program, d.headed = v.Program, true
		return nil
	}
	if !d.headed {
		return fmt.Errorf("there is no header line before it: expected {\"log\":%q,…}", magic)
	}
	key := Stream{v.Pool, v.Check, v.Query}
	s := d.series[key]
	if s == nil {
		if len(d.series) >= maxStreams {
			return fmt.Errorf("more than %d streams", maxStreams)
		}
		s = &Series{}
		d.series[key] = s
	}
	out := Read{Entry: Entry{Stream: key}, Place: place, Program: d.program, Exact: !v.Approximate, Lost: v.Lost}
	in := &out.Input
	for _, m := range []struct {
		name string
		from *samples
		all  *demand.Series
		seen *demand.Series
	}{{"demand", v.Demand, &s.Demand, &in.Demand}, {"load", v.Load, &s.Load, &in.Load}, {"queue", v.Queue, &s.Queue, &in.Queue}} {
		if m.from == nil {
			continue
		}
		seen, err := d.samples(m.from, m.all)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		*m.seen = seen
		out.Exact = out.Exact && len(seen) == m.from.Count
	}
	if v.Decision == nil {
		return nil
	}
	if err := out.decode(v); err != nil {
		return err
	}
	if err := d.each(out); err != nil {
		return errEach{err}
	}
	return nil
}

// decode takes what is not a series.
func (r *Read) decode(v line) (err error) {
	if v.At.IsZero() {
		return errors.New(`"at" is missing`)
	}
	r.Input.Now, r.Input.Count, r.Input.Starting = v.At, v.Count, v.Starting
	if v.Floor != nil {
		r.Input.Floor, r.Input.FloorWhy = v.Floor.Count, v.Floor.Why
	}
	if v.Ceiling != nil {
		r.Input.Ceiling, r.Input.CeilingWhy = v.Ceiling.Count, v.Ceiling.Why
	}
	if v.Service != "" {
		if r.Input.Service, err = time.ParseDuration(v.Service); err != nil {
			return fmt.Errorf("service: %w", err)
		}
	}
	if len(v.Rules) > 0 {
		if r.Rules, r.Unknown, err = decodeRules(v.Rules); err != nil {
			return fmt.Errorf("rules: %w", err)
		}
	}
	r.Decision = v.Decision.decode()
	return nil
}

// samples adds what is new to all, and returns what the decision saw of it.
func (d *reader) samples(m *samples, all *demand.Series) (demand.Series, error) {
	news, err := m.news()
	if err != nil {
		return nil, err
	}
	if len(news) > 0 {
		have := *all
		keep := len(have.Window(time.Time{}, news[0].At.Add(-1)))
		if keep < len(have) {
			have = have[:keep:keep] // others look at what is replaced
		}
		d.total += len(news) - (len(*all) - keep)
		if d.total > maxTotal {
			return nil, fmt.Errorf("more than %d samples", maxTotal)
		}
		*all = append(have, news...)
	}
	if m.From.IsZero() {
		return nil, nil
	}
	last, _ := all.Last()
	return all.Window(m.From.Add(-1), last.At), nil
}

// Matches reports whether a stream is meant by these names; an empty one means
// any.
func (s Stream) Matches(pool, check string) bool {
	return (pool == "" || s.Pool == pool) && (check == "" || s.Check == check)
}

// String is the stream with all that tells it apart.
func (s Stream) String() string {
	var parts []string
	for _, p := range []struct{ name, value string }{{"pool", s.Pool}, {"check", s.Check}, {"query", s.Query}} {
		if p.value != "" {
			parts = append(parts, p.name+" "+p.value)
		}
	}
	if len(parts) == 0 {
		return "(a check without a name)"
	}
	return strings.Join(parts, ", ")
}
