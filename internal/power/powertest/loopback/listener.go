package loopback

import (
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// quiet takes what net/http says of connections that are broken on purpose.
var quiet = log.New(io.Discard, "", 0)

// listener hands out connections that can be muted.
type listener struct {
	*net.TCPListener
	accepted atomic.Int32
	open     atomic.Int32 // connections that the server has
	halfOpen atomic.Bool
	hole     atomic.Bool
	done     chan struct{}
	once     sync.Once

	mu    sync.Mutex
	conns map[*conn]bool
	kept  []net.Conn // that fill the queue of a black hole
}

// Accept waits for a connection, for ever once the service is a black hole.
func (l *listener) Accept() (net.Conn, error) {
	inner, err := l.TCPListener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: inner}
	l.mu.Lock()
	l.conns[c] = true
	l.mu.Unlock()
	if l.hole.Load() {
		c.muted.Store(true)
		<-l.done
		return nil, net.ErrClosed
	}
	l.accepted.Add(1)
	return c, nil
}

// state counts the connections that are open, and mutes one after its first
// answer if it is to be half-open.
func (l *listener) state(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		l.open.Add(1)
	case http.StateClosed, http.StateHijacked:
		l.open.Add(-1)
	}
	if state != http.StateIdle || !l.halfOpen.Load() {
		return
	}
	if over, ok := c.(*tls.Conn); ok {
		c = over.NetConn()
	}
	if c, ok := c.(*conn); ok {
		c.muted.Store(true)
	}
}

// blackHole mutes all connections and has the kernel drop the first packet of
// new ones, by filling the queue of those that wait to be accepted.
func (l *listener) blackHole(t testing.TB) {
	t.Helper()
	l.hole.Store(true)
	l.mu.Lock()
	for c := range l.conns {
		c.muted.Store(true)
	}
	l.mu.Unlock()
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatalf("black hole: %v", err)
	}
	if cerr := raw.Control(func(fd uintptr) { err = syscall.Listen(int(fd), 0) }); cerr != nil || err != nil {
		t.Fatalf("black hole: shorten the queue: %v, %v", cerr, err)
	}
	dialer := net.Dialer{Timeout: 200 * time.Millisecond}
	for range 8 {
		c, err := dialer.DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			return // its first packet was dropped
		}
		l.mu.Lock()
		l.kept = append(l.kept, c)
		l.mu.Unlock()
	}
	t.Fatal("black hole: the kernel still takes new connections")
}

func (l *listener) end() {
	l.once.Do(func() {
		close(l.done)
		l.mu.Lock()
		defer l.mu.Unlock()
		for c := range l.conns {
			_ = c.Close()
		}
		for _, c := range l.kept {
			_ = c.Close()
		}
	})
}

// conn is a connection that can be muted: then what comes is dropped, and what
// is sent does not leave. The kernel goes on acknowledging.
type conn struct {
	net.Conn
	muted atomic.Bool
}

func (c *conn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil || !c.muted.Load() {
			return n, err
		}
	}
}

func (c *conn) Write(p []byte) (int, error) {
	if c.muted.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}
