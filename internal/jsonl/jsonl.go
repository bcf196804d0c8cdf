// Package jsonl appends lines to a file that is bounded in size: when it is
// full it becomes PATH.1, the one before it PATH.2, and so on. Nobody waits for
// the disk, a line that a kill tore is ended before the next one, a file that
// somebody moved is begun anew, and two processes do not write one file.
package jsonl

import (
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

// Format says what entries look like in a file. Its functions are called by one
// goroutine.
type Format[T any] struct {
	// Begin is what each opening of a file writes first, whole lines. Nil
	// writes nothing.
	Begin func() ([]byte, error)
	// Encode is an entry as whole lines. lost is how many entries before it
	// were not written, since the last one that was.
	Encode func(e T, lost int) ([]byte, error)
}

// Log writes entries to a file. It is safe for concurrent use.
type Log[T any] struct {
	entries chan T
	lost    atomic.Int64
	stop    func()
	done    chan struct{}
}

const retryAfter = 10 * time.Second // of a file that cannot be written

// Open begins a log. Whether the file can be written shows with the first
// entry, by Config.Report: who decides goes on without its log too.
func Open[T any](c Config, f Format[T]) *Log[T] {
	c = c.withDefaults()
	stopped := make(chan struct{})
	l := &Log[T]{entries: make(chan T, c.Queue), done: make(chan struct{})}
	l.stop = sync.OnceFunc(func() { close(stopped) })
	w := &writer[T]{cfg: c, format: f, lost: &l.lost}
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

// Add hands an entry over to be written. Nothing in it may be written to any
// more. Where the queue is full, the entry is dropped and counted.
func (l *Log[T]) Add(e T) {
	select {
	case l.entries <- e:
	default:
		l.lost.Add(1)
	}
}

// Close writes what is queued and lets go of the file. Entries that are added
// later are not written.
func (l *Log[T]) Close() {
	l.stop()
	<-l.done
}

// writer is the file and what stands in it. One goroutine has it.
type writer[T any] struct {
	cfg    Config
	format Format[T]
	lost   *atomic.Int64
	file   *os.File // nil where it could not be opened, or failed
	size   int64
	failed time.Time // zero unless the last write failed
}

func (w *writer[T]) add(e T) {
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

func (w *writer[T]) write(e T) error {
	if err := w.ready(); err != nil {
		return err
	}
	text, err := w.format.Encode(e, int(w.lost.Load()))
	if err != nil {
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
func (w *writer[T]) ready() error {
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

func (w *writer[T]) close() {
	if w.file != nil {
		_ = w.file.Close() // nothing is buffered: there is nothing to lose
		w.file = nil
	}
}

// rotate moves each file to its next number, the oldest to none.
func (w *writer[T]) rotate() error {
	w.close()
	if w.cfg.Keep == 0 {
		return os.Remove(w.cfg.Path)
	}
	for i := w.cfg.Keep; i > 0; i-- {
		if err := os.Rename(Numbered(w.cfg.Path, i-1), Numbered(w.cfg.Path, i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Numbered is the path of the i-th older file of a log; the 0th is the newest.
func Numbered(path string, i int) string {
	if i == 0 {
		return path
	}
	return path + "." + strconv.Itoa(i)
}

// open opens or creates the file and writes its beginning, after an end of line
// where a kill left a torn one.
func (w *writer[T]) open() (err error) {
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
	if w.format.Begin != nil {
		head, err := w.format.Begin()
		if err != nil {
			return err
		}
		text = append(text, head...)
	}
	n, err := f.Write(text)
	if err != nil {
		return err
	}
	w.file, w.size = f, info.Size()+int64(n)
	return nil
}
