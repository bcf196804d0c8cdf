package queuetest

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Wire lies between a source and its server, and can be broken. It passes
// bytes on until then.
type Wire struct {
	t       testing.TB
	server  string
	addr    string
	tls     *tls.Config // spoken with the source, if not nil
	mu      sync.Mutex
	ln      net.Listener
	conns   map[net.Conn]bool
	stalled bool
	limit   int // bytes of answers that pass on each connection; below 0 is all
	hostile func(net.Conn)
	rewrite func(answer []byte, wire string)
	wg      sync.WaitGroup
}

// NewWire lays a wire to a server.
func NewWire(t testing.TB, server string) *Wire { return newWire(t, server, nil) }

func newWire(t testing.TB, server string, c *tls.Config) *Wire {
	t.Helper()
	w := &Wire{t: t, server: server, tls: c, conns: make(map[net.Conn]bool), limit: -1}
	w.listen(Host() + ":0")
	t.Cleanup(func() {
		w.Cut()
		w.wg.Wait()
	})
	return w
}

// Addr is where the source finds the server.
func (w *Wire) Addr() string { return w.addr }

func (w *Wire) listen(addr string) {
	w.t.Helper()
	ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	w.ln = ln
	if w.addr == "" { // and the same ever after
		w.addr = ln.Addr().String()
	}
	w.mu.Unlock()
	w.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			w.wg.Go(func() { w.serve(c) })
		}
	})
}

// track keeps a connection to cut, or cuts it if there is no wire any more.
func (w *Wire) track(c net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ln == nil {
		_ = c.Close()
		return false
	}
	w.conns[c] = true
	return true
}

func (w *Wire) serve(c net.Conn) {
	defer c.Close() //nolint:errcheck // it may be cut already
	if !w.track(c) {
		return
	}
	w.mu.Lock()
	hostile := w.hostile
	w.mu.Unlock()
	if hostile != nil {
		hostile(c)
		return
	}
	near := c
	if w.tls != nil {
		near = tls.Server(c, w.tls)
	}
	far, err := new(net.Dialer).DialContext(context.Background(), "tcp", w.server)
	if err != nil {
		return
	}
	defer far.Close() //nolint:errcheck // as above
	if !w.track(far) {
		return
	}
	w.wg.Go(func() {
		defer far.Close() //nolint:errcheck // as above
		w.pass(far, near, false)
	})
	w.pass(near, far, true)
}

// pass copies, as far as the wire is whole.
func (w *Wire) pass(to io.Writer, from io.Reader, answers bool) {
	buf := make([]byte, 32<<10)
	passed := 0
	for {
		n, err := from.Read(buf)
		w.mu.Lock()
		limit, stalled := w.limit, w.stalled
		w.mu.Unlock()
		part := buf[:n]
		if answers && stalled {
			part = nil
		}
		if answers && limit >= 0 {
			part = part[:min(len(part), max(0, limit-passed))]
		}
		if answers && w.rewrite != nil {
			w.rewrite(part, w.addr)
		}
		passed += len(part)
		if len(part) > 0 {
			if _, err := to.Write(part); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// Stall lets requests pass and no answers.
func (w *Wire) Stall() { w.set(func() { w.stalled = true }) }

// HalfOpen lets only so many bytes of answers pass on each connection.
func (w *Wire) HalfOpen(bytes int) { w.set(func() { w.limit = bytes }) }

// Hostile answers by itself on each new connection, in place of the server.
func (w *Wire) Hostile(f func(net.Conn)) { w.set(func() { w.hostile = f }) }

// Mend ends what Stall, HalfOpen and Hostile began. Connections that were
// broken are cut.
func (w *Wire) Mend() {
	w.Cut()
	w.set(func() { w.stalled, w.limit, w.hostile = false, -1, nil })
	w.Splice()
}

func (w *Wire) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// Cut ends all connections and takes no new ones, as a server that ends does.
func (w *Wire) Cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ln != nil {
		_ = w.ln.Close()
		w.ln = nil
	}
	for c := range w.conns {
		_ = c.Close()
		delete(w.conns, c)
	}
}

// Splice takes connections again, at the same address.
func (w *Wire) Splice() {
	w.t.Helper()
	w.mu.Lock()
	open := w.ln != nil
	w.mu.Unlock()
	if !open {
		w.listen(w.addr)
	}
}

// drip sends text again and again, slowly, until the connection ends.
func drip(text string, every time.Duration) func(net.Conn) {
	return func(c net.Conn) {
		for {
			if _, err := io.WriteString(c, text); err != nil {
				return
			}
			time.Sleep(every)
		}
	}
}

// say sends text and then hears until the connection ends.
func say(text string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = io.WriteString(c, text)
		_, _ = io.Copy(io.Discard, c)
	}
}
