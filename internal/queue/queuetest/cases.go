package queuetest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/leaktest"
	"github.com/gpupool/gpupool/internal/queue"
)

var classes = []error{queue.ErrUnreachable, queue.ErrAuth, queue.ErrMissing, queue.ErrRefused, queue.ErrInvalid}

// classOf is the class of an error, nil if it has none.
func classOf(err error) error {
	for _, class := range classes {
		if errors.Is(err, class) {
			return class
		}
	}
	return nil
}

// read reads once. It ends the test if the read hangs.
func (b *bench) read(s queue.Source, limit time.Duration) (queue.Reading, error) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return b.readCtx(ctx, s, limit)
}

func (b *bench) readCtx(ctx context.Context, s queue.Source, limit time.Duration) (queue.Reading, error) {
	b.t.Helper()
	type result struct {
		r   queue.Reading
		err error
	}
	done := make(chan result, 1)
	go func() {
		r, err := s.Read(ctx)
		done <- result{r, err}
	}()
	select {
	case got := <-done:
		b.check(got.err)
		if got.err != nil && got.r != (queue.Reading{}) {
			b.t.Errorf("a reading beside an error: %+v", got.r)
		}
		return got.r, got.err
	case <-time.After(limit + grace):
		buf := make([]byte, 1<<20)
		b.t.Fatalf("still reading %s after the deadline\n%s", grace, buf[:runtime.Stack(buf, true)])
		return queue.Reading{}, nil
	}
}

// want reads until the queue has so much. Some servers count late.
func (b *bench) want(s queue.Source, waiting float64, running *float64) {
	b.t.Helper()
	var r queue.Reading
	var err error
	for end := time.Now().Add(plenty); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		r, err = b.read(s, plenty)
		if err == nil && r.Waiting == waiting && (running == nil || r.Running != nil && *r.Running == *running) {
			return
		}
	}
	b.t.Fatalf("read %s, %v, want %v waiting and %s running", show(r), err, waiting, number(running))
}

func show(r queue.Reading) string {
	return fmt.Sprintf("%v waiting and %s running", r.Waiting, number(r.Running))
}

func number(n *float64) string {
	if n == nil {
		return "unknown"
	}
	return fmt.Sprint(*n)
}

// wantErr ends the test unless a read fails, with one of the classes.
func (b *bench) wantErr(s queue.Source, limit time.Duration, classes ...error) {
	b.t.Helper()
	r, err := b.read(s, limit)
	if err == nil {
		b.t.Fatalf("read %s, want an error", show(r))
	}
	if !slices.Contains(classes, classOf(err)) {
		b.t.Fatalf("%v, want an error of the class %v", err, classes)
	}
}

// put makes a queue and waits until the server tells of it.
func (b *bench) put(items int) {
	b.t.Helper()
	b.rig.Server.Put(b.t, b.name, items, 0)
	s := b.open()
	b.want(s, float64(items), nil)
	_ = s.Close()
}

func counts(b *bench) {
	s := b.open()
	for _, n := range []int{1, 7, 250} {
		name := b.name
		b.name = fmt.Sprintf("%s-%d", name, n)
		b.rig.Server.Put(b.t, b.name, n, 0)
		b.want(b.open(), float64(n), nil)
		b.name = name
	}
	// The source of a queue that comes into being later finds it.
	b.rig.Server.Put(b.t, b.name, 3, 0)
	b.want(s, 3, nil)
}

func empty(b *bench) {
	b.rig.Server.Put(b.t, b.name, 0, 0)
	b.want(b.open(), 0, nil)
}

func running(b *bench) {
	b.rig.Server.Put(b.t, b.name, 5, 2)
	two := 2.0
	b.want(b.open(), 3, &two)
}

func missing(b *bench) {
	b.wantErr(b.open(), plenty, queue.ErrMissing)
}

func credential(b *bench) {
	b.rig.Server.Put(b.t, b.name, 1, 0)
	s := b.openWith(b.rig.Server.Settings(b.wire.Addr(), b.name, b.password(b.rig.WrongSecret)))
	b.wantErr(s, plenty, queue.ErrAuth)
	b.wantErr(s, plenty, queue.ErrAuth) // and again: it is not remembered as something else
}

func deadlinePassed(b *bench) {
	b.put(1)
	s := b.open()
	b.wantErr(s, -time.Second, queue.ErrUnreachable)
	b.want(s, 1, nil)
	b.wantErr(s, -time.Second, queue.ErrUnreachable)
	b.want(s, 1, nil)
}

func cancelled(b *bench) {
	b.put(1)
	s := b.open()
	b.wire.Stall()
	ctx, cancel := context.WithTimeout(context.Background(), plenty)
	defer cancel()
	time.AfterFunc(200*time.Millisecond, cancel)
	began := time.Now()
	_, err := b.readCtx(ctx, s, plenty)
	if !errors.Is(err, queue.ErrUnreachable) || time.Since(began) > grace {
		b.t.Fatalf("%v after %s", err, time.Since(began))
	}
	b.wire.Mend()
	b.recovers(s, 1)
}

// recovers reads until it succeeds, which may take one failed read.
func (b *bench) recovers(s queue.Source, waiting float64) {
	b.t.Helper()
	if _, err := b.read(s, plenty); err != nil && !errors.Is(err, queue.ErrUnreachable) {
		b.t.Fatalf("the first read after the break: %v, want one of the class %q or none", err, queue.ErrUnreachable)
	}
	r, err := b.read(s, plenty)
	if err != nil || r.Waiting != waiting {
		b.t.Fatalf("the second read after the break: %s, %v, want %v", show(r), err, waiting)
	}
}

func nothingThere(b *bench) {
	s := b.open()
	b.wire.Cut()
	b.wantErr(s, plenty, queue.ErrUnreachable)
	b.wantErr(s, plenty, queue.ErrUnreachable)
	b.rig.Server.Put(b.t, b.name, 2, 0)
	b.wire.Splice()
	b.want(s, 2, nil)
}

func hung(b *bench) {
	b.put(4)
	s := b.open()
	b.wire.Stall()
	b.wantErr(s, short, queue.ErrUnreachable)
	b.wire.Mend()
	b.recovers(s, 4)
	b.wire.Stall() // with a connection that was good
	b.wantErr(s, short, queue.ErrUnreachable)
	b.wire.Mend()
	b.recovers(s, 4)
}

func halfOpen(b *bench) {
	b.put(4)
	s := b.open()
	for _, bytes := range []int{1, 5, 20, 60} {
		b.wire.HalfOpen(bytes)
		r, err := b.read(s, short)
		// A short answer may have passed whole.
		if err == nil && r.Waiting != 4 {
			b.t.Fatalf("after %d bytes: read %s", bytes, show(r))
		}
		b.wire.Mend()
		b.recovers(s, 4)
	}
}

func drips(b *bench) {
	s := b.open()
	for _, text := range []string{"x", " ", "\r\n", "1", "\x00"} {
		b.wire.Hostile(drip(text, 20*time.Millisecond))
		b.wantErr(s, short, queue.ErrUnreachable, queue.ErrInvalid)
		b.wire.Mend()
	}
}

// answers of servers that are something else, broken, or mean harm.
var answers = []string{
	"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nhello",
	"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\nnull",
	"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
	"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]",
	"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9223372036854775807\r\n\r\n{\"a\":",
	"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + strings.Repeat("[", 200000),
	"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 204 No Content\r\n\r\n",
	"$9223372036854775807\r\n",
	"$1099511627776\r\n",
	"*2147483647\r\n*2147483647\r\n",
	"-ERR \x1b[31m\r\n",
	":-1\r\n:-1\r\n:-1\r\n:-1\r\n",
	"INFO {}\r\nPONG\r\nMSG a 1 9223372036854775807\r\n",
	"INFO {\"max_payload\":1}\r\nPONG\r\nMSG a 1 1099511627776\r\n",
	"INFO " + strings.Repeat("{", 100000) + "\r\n",
	"AMQP\x00\x00\x09\x01",
	"\x01\x00\x00\xff\xff\xff\xff" + strings.Repeat("\x00", 100),
	"R\x00\x00\x00\x08\x00\x00\x00\x00Z\x00\x00\x00\x05I" + "D\x7f\xff\xff\xff\xff\xff",
	"E\x7f\xff\xff\xff",
	"\x7f\xff\xff\xff\x00\x00\x00\x00",
	"\xff\xff\xff\xff\xff\xff\xff\xff",
	"SSH-2.0-OpenSSH_9.2\r\n",
	"\x15\x03\x01\x00\x02\x02\x28",
}

// maxMemory is what a hostile answer may cost, in bytes allocated.
const maxMemory = 256 << 20

func hostile(b *bench) {
	s := b.open()
	for _, text := range answers {
		b.wire.Hostile(say(text))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		b.wantErr(s, short/4, classes...)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > maxMemory {
			b.t.Errorf("the answer %.40q cost %d MiB", text, n>>20)
		}
		b.wire.Mend()
	}
	// One without an end.
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, text := range []string{"x", "INFO x", "+x", "HTTP/1.1 200 OK\r\n\r\n["} {
		b.wire.Hostile(drip(text+strings.Repeat(text[len(text)-1:], 1<<20), 0))
		b.wantErr(s, plenty, classes...)
		b.wire.Mend()
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > maxMemory {
		b.t.Errorf("endless answers cost %d MiB", n>>20)
	}
	b.rig.Server.Put(b.t, b.name, 2, 0)
	b.want(s, 2, nil)
}

func connectionLost(b *bench) {
	b.put(6)
	s := b.open()
	for range 3 {
		b.want(s, 6, nil)
		b.wire.Cut()
		b.wire.Splice()
		b.recovers(s, 6)
	}
}

func restarted(b *bench) {
	b.rig.Server.Put(b.t, b.name, 6, 0)
	s := b.open()
	b.want(s, 6, nil)
	b.rig.Server.Restart()
	_, _ = b.read(s, plenty) // may fail, and may find the queue gone
	b.name += "-again"
	b.rig.Server.Put(b.t, b.name, 2, 0)
	b.want(b.open(), 2, nil)
	if _, err := b.read(s, plenty); err != nil && !errors.Is(err, queue.ErrMissing) {
		b.t.Fatalf("after the restart: %v", err)
	}
}

func closed(b *bench) {
	unused := b.open()
	for range 2 {
		if err := unused.Close(); err != nil {
			b.t.Fatalf("close of a source that was not used: %v", err)
		}
	}
	b.rig.Server.Put(b.t, b.name, 1, 0)
	s := b.open()
	b.want(s, 1, nil)
	for range 2 {
		if err := s.Close(); err != nil {
			b.t.Fatalf("close: %v", err)
		}
	}
	b.wantErr(s, plenty, queue.ErrUnreachable)
}

func tlsVerified(b *bench) {
	wire := b.wire
	certs := b.rig.Server.Certs
	if certs == nil {
		certs = NewCerts(b.t)
		pair, err := tls.LoadX509KeyPair(certs.Cert, certs.Key)
		if err != nil {
			b.t.Fatal(err)
		}
		wire = newWire(b.t, b.rig.Server.Addr, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
		wire.rewrite = b.rig.Server.Rewrite
	}
	b.rig.Server.Put(b.t, b.name, 3, 0)
	for _, c := range []struct {
		name string
		more map[string]string
		good bool
	}{
		{"the right CA", map[string]string{"ca_file": certs.CA}, true},
		{"the system's CAs", nil, false},
		{"another CA", map[string]string{"ca_file": certs.Other}, false},
		{"another name", map[string]string{"ca_file": certs.CA, "tls_server_name": "elsewhere"}, false},
		{"not verified", map[string]string{"insecure_skip_verify": "true"}, true},
	} {
		settings := b.rig.Server.SettingsTLS(b.rig.Server.Settings(wire.Addr(), b.name, b.password(b.rig.Secret)))
		for k, v := range c.more {
			settings[k] = v
		}
		s := b.openWith(settings)
		if c.good {
			b.want(s, 3, nil)
			continue
		}
		if _, err := b.read(s, plenty); !errors.Is(err, queue.ErrUnreachable) || !strings.Contains(err.Error(), "certificate") {
			b.t.Errorf("%s: %v, want the certificate refused", c.name, err)
		}
	}
}

func noGoroutineLeft(b *bench) {
	b.rig.Server.Put(b.t, b.name, 1, 0)
	for range 3 {
		s := b.open()
		b.want(s, 1, nil)
		_ = s.Close()
	}
	b.wantNoGoroutines()
	for range 2 {
		s := b.open()
		b.wire.Stall()
		b.wantErr(s, short/2, queue.ErrUnreachable)
		_ = s.Close()
		b.wire.Mend()
	}
	b.wantNoGoroutines()
}

// wantNoGoroutines ends the test if goroutines of the source stay.
func (b *bench) wantNoGoroutines() {
	b.t.Helper()
	if len(b.rig.Frames) == 0 {
		b.t.Fatal("the rig names no frames to look for")
	}
	if left := leaktest.Left(b.rig.Frames, grace); len(left) > 0 {
		b.t.Fatalf("%d goroutines are left:\n%s", len(left), strings.Join(left, "\n\n"))
	}
}
