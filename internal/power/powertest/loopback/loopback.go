// Package loopback is an HTTP server for tests of power drivers that can be
// broken in the ways of real networks: hung, half-open, a black hole, gone.
package loopback

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Options are what a server is like. The zero value has a certificate of the
// test's own CA.
type Options struct {
	Certificate Certificate // CASigned if zero
	MaxTLS      uint16      // the newest version of TLS, no limit if zero
	Plain       bool        // HTTP without TLS, as the metadata services of clouds speak it
}

// Server is one server in 127.0.0.0/8.
type Server struct {
	URL         string // https://127.x.y.z:port
	CAFile      string // PEM of the CA that its certificate is of, or of itself
	Fingerprint string // of its certificate, as drivers' configs have it

	t        testing.TB
	server   *http.Server
	listener *listener
	done     chan struct{} // closed when the server ends
	stop     func()
	hanging  atomic.Bool
}

// Start starts a server. It ends with the test.
func Start(t testing.TB, o Options, handler http.Handler) *Server {
	t.Helper()
	ip := address()
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, 0)))
	if err != nil {
		t.Fatalf("listen for a simulator: %v", err)
	}
	s := &Server{
		URL:      "http://" + tcp.Addr().String(),
		t:        t,
		listener: &listener{TCPListener: tcp, conns: make(map[*conn]bool), done: make(chan struct{})},
		done:     make(chan struct{}),
	}
	s.server = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if s.hanging.Load() {
				s.Sleep(time.Hour)
				return
			}
			handler.ServeHTTP(w, r)
		}),
		ConnState:         s.listener.state,
		ReadHeaderTimeout: time.Minute,
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/1.1, as BMCs speak it
		ErrorLog:          quiet,
	}
	s.stop = sync.OnceFunc(func() {
		close(s.done)
		s.listener.end()
		_ = s.server.Close()
	})
	t.Cleanup(s.stop)
	var l net.Listener = s.listener
	if !o.Plain {
		cert, caFile := newCertificate(t, o.Certificate, ip)
		s.URL, s.CAFile, s.Fingerprint = "https://"+tcp.Addr().String(), caFile, fingerprint(cert)
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: o.MaxTLS, MinVersion: tls.VersionTLS10})
	}
	go func() { _ = s.server.Serve(l) }()
	return s
}

// Connections is the number of connections that were made so far.
func (s *Server) Connections() int { return int(s.listener.accepted.Load()) }

// Open is the number of connections that are open now.
func (s *Server) Open() int { return int(s.listener.open.Load()) }

// Hang makes the server read requests and answer none.
func (s *Server) Hang() { s.hanging.Store(true) }

// BlackHole makes everything that is sent to the server vanish, the first
// packet of new connections too.
func (s *Server) BlackHole() { s.listener.blackHole(s.t) }

// HalfOpen makes each connection go silent after its first answer, without
// being closed.
func (s *Server) HalfOpen() { s.listener.halfOpen.Store(true) }

// Stop ends the server: nothing listens at its address any more. It may be
// called more than once, and is called at the end of the test.
func (s *Server) Stop() { s.stop() }

// Sleep waits, or until the server ends.
func (s *Server) Sleep(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.done:
	}
}

var addresses atomic.Uint32

// address returns an address in 127.0.0.0/8 that no other call in this
// process, and hardly another process, was given.
func address() netip.Addr {
	n, pid := addresses.Add(1), os.Getpid()
	return netip.AddrFrom4([4]byte{127, byte(80 + pid>>8&0x3f), byte(pid), byte(1 + n%250)})
}
