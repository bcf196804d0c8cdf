package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gpupool/gpupool/internal/demand"
)

// Config is where and how much to write. Path is required.
type Config struct {
	Path     string // of the newest file; older ones are Path.1, Path.2 and so on
	MaxBytes int64  // of one file, from which on the next is begun; 64 MiB
	Keep     int    // older files that are kept; 4, -1 for none
	Queue    int    // entries that may wait to be written; 64

	// Report hears of the first of a row of failures and, as nil, of the
	// end of the row. It is called by one goroutine; nil hears nothing.
	Report func(error)
}

func (c Config) withDefaults() Config {
	if c.MaxBytes == 0 {
		c.MaxBytes = 64 << 20
	}
	switch {
	case c.Keep == 0:
		c.Keep = 4
	case c.Keep < 0:
		c.Keep = 0
	}
	if c.Queue <= 0 {
		c.Queue = 64
	}
	if c.Report == nil {
		c.Report = func(error) {}
	}
	return c
}

// Log writes decisions to a file. It is safe for concurrent use.
type Log struct {
	entries chan Entry
	lost    atomic.Int64
	stop    func()
	done    chan struct{}
}

const retryAfter = 10 * time.Second // of a file that cannot be written

// Open begins a log. Whether the file can be written shows with the first
// entry, by Config.Report: a strategy decides without its log too.
func Open(c Config) *Log {
	c = c.withDefaults()
	stopped := make(chan struct{})
	l := &Log{entries: make(chan Entry, c.Queue), done: make(chan struct{})}
	l.stop = sync.OnceFunc(func() { close(stopped) })
	w := &writer{cfg: c, lost: &l.lost}
	go func() {
		defer close(l.done)
		defer w.close()
		for {
			select {
			case e := <-l.entries:
				w.add(e)
			case <-stopped:
				for {
					select {
					case e := <-l.entries:
						w.add(e)
					default:
						return
					}
				}
			}
		}
	}()
	return l
}

// Add hands an entry over to be written. The series in it must not be written
// to any more. Where the queue is full, the entry is dropped and counted.
func (l *Log) Add(e Entry) {
	select {
	case l.entries <- e:
	default:
		l.lost.Add(1)
	}
}

// Close writes what is queued and lets go of the file. Entries that are added
// later are not written.
func (l *Log) Close() {
	l.stop()
	<-l.done
}

// writer is the file and what stands in it. One goroutine has it.
type writer struct {
	cfg    Config
	lost   *atomic.Int64
	file   *os.File // nil where it could not be opened, or failed
	size   int64
	known  map[Stream]*known
	failed time.Time // zero unless the last write failed
}

// known is what the file has of a stream's series.
type known struct{ demand, load, queue told }

func (w *writer) add(e Entry) {
	if !w.failed.IsZero() && w.file == nil && time.Since(w.failed) < retryAfter {
		w.lost.Add(1)
		return
	}
	err := w.write(e)
	switch {
	case err == nil && !w.failed.IsZero():
		w.failed = time.Time{}
		w.cfg.Report(nil)
	case err != nil:
		w.lost.Add(1)
		if w.failed.IsZero() {
			w.cfg.Report(fmt.Errorf("decision log %s: %w", w.cfg.Path, err))
		}
		w.failed = time.Now()
	}
}

func (w *writer) write(e Entry) error {
	if err := w.ready(); err != nil {
		return err
	}
	k := w.known[e.Stream]
	if k == nil {
		k = &known{}
		w.known[e.Stream] = k
	}
	text, err := k.lines(e, int(w.lost.Load()))
	if err != nil {
		delete(w.known, e.Stream) // the file does not have what k now thinks it has
		return err
	}
	n, err := w.file.Write(text)
	w.size += int64(n)
	if err != nil {
		// What was written may end in the middle of a line: the next opening
		// ends it and begins anew.
		w.close()
		return err
	}
	w.lost.Store(0)
	return nil
}

// ready makes sure that there is a file with room, which is still the one at
// the path.
func (w *writer) ready() error {
	if w.file != nil {
		at, err := os.Stat(w.cfg.Path)
		own, ownErr := w.file.Stat()
		if err != nil || ownErr != nil || !os.SameFile(at, own) {
			w.close() // somebody else moved it
		}
	}
	if w.file != nil && w.size >= w.cfg.MaxBytes {
		if err := w.rotate(); err != nil {
			return fmt.Errorf("begin the next file: %w", err)
		}
	}
	if w.file != nil {
		return nil
	}
	return w.open()
}

func (w *writer) close() {
	if w.file != nil {
		_ = w.file.Close() // nothing is buffered: there is nothing to lose
		w.file = nil
	}
}

// rotate moves each file to its next number, the oldest to none.
func (w *writer) rotate() error {
	w.close()
	if w.cfg.Keep == 0 {
		return os.Remove(w.cfg.Path)
	}
	for i := w.cfg.Keep; i > 0; i-- {
		if err := os.Rename(numbered(w.cfg.Path, i-1), numbered(w.cfg.Path, i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func numbered(path string, i int) string {
	if i == 0 {
		return path
	}
	return path + "." + strconv.Itoa(i)
}

// open opens or creates the file and writes a header, after an end of line
// where a kill left a torn one.
func (w *writer) open() (err error) {
	f, err := os.OpenFile(w.cfg.Path, os.O_RDWR|os.O_APPEND|os.O_CREATE|unix.O_NONBLOCK, 0o640)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("is not a regular file")
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another process writes to it (lock: %w); give each its own file", err)
	}
	var text []byte
	if info.Size() > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, info.Size()-1); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if last[0] != '\n' {
			text = append(text, '\n')
		}
	}
	head, err := json.Marshal(line{Log: magic, Version: version, Program: Program(), Opened: time.Now().UTC()})
	if err != nil {
		return err
	}
	text = append(append(text, head...), '\n')
	n, err := f.Write(text)
	if err != nil {
		return err
	}
	w.file, w.size, w.known = f, info.Size()+int64(n), map[Stream]*known{}
	return nil
}

// lines is the entry as lines: the decision's, and before it those with
// samples that do not fit.
func (k *known) lines(e Entry, lost int) ([]byte, error) {
	now := e.Input.Now
	d, dok := k.demand.news(e.Input.Demand, now)
	l, lok := k.load.news(e.Input.Load, now)
	q, qok := k.queue.news(e.Input.Queue, now)
	var out bytes.Buffer
	put := func(v line) error {
		v.Pool, v.Check, v.Query = e.Pool, e.Check, e.Query
		text, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if len(text)+1 > maxLine {
			return fmt.Errorf("the decision of %q at %s makes a line of %d bytes, and %d are allowed", e.Name(), now.Format(time.RFC3339), len(text), maxLine)
		}
		out.Write(text)
		out.WriteByte('\n')
		return nil
	}
	for len(d) > maxChunk || len(l) > maxChunk || len(q) > maxChunk {
		var v line
		v.Demand, d = chunk(d)
		v.Load, l = chunk(l)
		v.Queue, q = chunk(q)
		if err := put(v); err != nil {
			return nil, err
		}
	}
	rules, err := encodeRules(e.Rules)
	if err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	v := line{
		At: now.UTC(), Count: e.Input.Count, Decision: encodeDecision(e.Decision), Rules: rules,
		Demand: newSamples(e.Input.Demand, d), Load: newSamples(e.Input.Load, l), Queue: newSamples(e.Input.Queue, q),
		Approximate: !dok || !lok || !qok, Lost: lost,
	}
	if e.Input.Service != 0 {
		v.Service = e.Input.Service.String()
	}
	for _, t := range e.Input.Starting {
		v.Starting = append(v.Starting, t.UTC())
	}
	if err := put(v); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// chunk cuts a line's worth off a series that is too long for one.
func chunk(s demand.Series) (*samples, demand.Series) {
	if len(s) <= maxChunk {
		return nil, s
	}
	m := &samples{}
	m.put(s[:maxChunk])
	return m, s[maxChunk:]
}

// told is the part of a series that the file has and that may still be asked
// for, and what may still be spent on telling it anew.
type told struct {
	series demand.Series
	spent  int
	since  time.Time
}

const (
	maxSamples = 200_000        // of a series at its first telling: 23 days at one in 10 s
	retell     = 50_000         // samples, in each
	retellTime = 24 * time.Hour // of the decisions' time
)

// news is the samples of s that the file lacks, and whether the file then has
// exactly s.
func (t *told) news(s demand.Series, now time.Time) (news demand.Series, exact bool) {
	if len(s) == 0 {
		return nil, true
	}
	have := t.series
	for len(have) > 0 && have[0].At.Before(s[0].At) {
		have = have[1:]
	}
	same := 0
	for same < len(have) && same < len(s) && have[same].Value == s[same].Value && have[same].At.Equal(s[same].At) {
		same++
	}
	news, exact = s[same:], true
	if again := len(have) - same; again > 0 {
		if now.Sub(t.since) >= retellTime {
			t.since, t.spent = now, 0
		}
		if len(news) == 0 || t.spent+again > retell {
			news, exact = s.Window(have[len(have)-1].At, s[len(s)-1].At), false
			same = len(have)
		} else {
			t.spent += again
		}
	}
	if len(news) > maxSamples {
		news, exact = news[len(news)-maxSamples:], false
	}
	t.series = append(have[:same:same], news...)
	return news, exact
}
