// Package dial is what the sources of package queue share on the way to their
// servers: TLS that verifies, connections that end with the deadline of the
// call they serve, and answers that are bounded.
package dial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/setting"
)

// MaxAnswer is how much a source reads for one reading, in bytes.
const MaxAnswer = 4 << 20

// TLS says how to verify a server.
type TLS struct {
	CAFile     string // PEM; empty is the system's
	CertFile   string // PEM of our own certificate; empty is none
	KeyFile    string // PEM of its key
	ServerName string // that the certificate is for; empty is the host of the address
	Insecure   bool   // do not verify
}

const maxPEM = 1 << 20 // bytes of a file

// DeclareTLS reads the settings of TLS and looks at the files that they name.
func DeclareTLS(r *setting.Reader) TLS {
	t := TLS{
		CAFile:     r.String("ca_file", "", "File with the certificates (PEM) of who may sign the server's. Without it, the system's."),
		CertFile:   r.String("cert_file", "", "File with our own certificate (PEM), where the server wants one."),
		KeyFile:    r.String("key_file", "", "File with the key of `cert_file` (PEM)."),
		ServerName: r.String("tls_server_name", "", "The name that the server's certificate is for, where it is not the one in the address."),
		Insecure:   r.Bool("insecure_skip_verify", false, "Do not verify the server's certificate. Whoever answers in its place gets the credential; set `ca_file` instead."),
	}
	if t.Insecure && t.CAFile != "" {
		r.Reject("insecure_skip_verify", "stands beside ca_file, which it would turn off", "take one of them out")
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		r.Reject("key_file", "is given without cert_file, or cert_file without it", "give both or none")
	} else if _, err := t.certificate(nil); err != nil {
		r.Reject("cert_file", err.Error(), "")
	}
	if _, err := t.roots(); err != nil {
		r.Reject("ca_file", err.Error(), "")
	}
	return t
}

// KEDA has KEDA's names of the keys of [DeclareTLS].
var KEDA = map[string]string{
	"ca_file":              "ca",
	"cert_file":            "cert",
	"key_file":             "key",
	"insecure_skip_verify": "unsafeSsl",
}

// Keys are those of [DeclareTLS].
var Keys = []string{"ca_file", "cert_file", "key_file", "tls_server_name", "insecure_skip_verify"}

// Config makes the configuration of connections to a host. The files are read
// anew at each handshake of a client certificate, and now for the rest.
func (t TLS) Config(host string) (*tls.Config, error) {
	roots, err := t.roots()
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	c := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		RootCAs:            roots,
		ServerName:         host,
		InsecureSkipVerify: t.Insecure, //nolint:gosec // the operator's word, with a warning
	}
	if t.ServerName != "" {
		c.ServerName = t.ServerName
	}
	if t.CertFile != "" {
		c.GetClientCertificate = t.certificate
	}
	return c, nil
}

func (t TLS) roots() (*x509.CertPool, error) {
	if t.CAFile == "" {
		return nil, nil // the system's
	}
	pem, err := readPEM(t.CAFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate in PEM", t.CAFile)
	}
	return pool, nil
}

func (t TLS) certificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	if t.CertFile == "" {
		return new(tls.Certificate), nil
	}
	cert, err := readPEM(t.CertFile)
	if err != nil {
		return nil, err
	}
	key, err := readPEM(t.KeyFile)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s with %s: %w", t.CertFile, t.KeyFile, err)
	}
	return &pair, nil
}

func readPEM(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	pem, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err == nil && len(pem) > maxPEM {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxPEM)
	}
	return pem, err
}

// Wire makes the connections of one source. What they may read is bounded for
// each call, and they are cut when its context ends, because the libraries
// between know of deadlines to different degrees.
type Wire struct {
	left   atomic.Int64 // bytes that may be read until the next call
	mu     sync.Mutex
	conns  map[*conn]bool
	closed bool
}

// Call begins a call: connections may read [MaxAnswer] until done is called,
// and are closed if the context ends before that.
func (w *Wire) Call(ctx context.Context) (done func()) {
	w.left.Store(MaxAnswer)
	stop := context.AfterFunc(ctx, w.Cut)
	return func() { stop() }
}

// Close closes all connections and opens none any more.
func (w *Wire) Close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.Cut()
}

// Cut closes all connections.
func (w *Wire) Cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		_ = c.Conn.Close()
		delete(w.conns, c)
	}
}

// DialContext opens a connection.
func (w *Wire) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{KeepAlive: 15 * time.Second}
	raw, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: raw, wire: w}
	if !w.keep(c) {
		_ = raw.Close()
		return nil, ErrClosed
	}
	return c, nil
}

// DialTLS opens a connection that speaks TLS from its first byte, or a plain
// one if the config is nil.
func (w *Wire) DialTLS(ctx context.Context, network, address string, cfg *tls.Config) (net.Conn, error) {
	c, err := w.DialContext(ctx, network, address)
	if err != nil || cfg == nil {
		return c, err
	}
	if cfg.ServerName == "" {
		cfg = cfg.Clone()
		cfg.ServerName, _, _ = net.SplitHostPort(address)
	}
	t := tls.Client(c, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = c.Close()
		return nil, err
	}
	return t, nil
}

// Guard reads along what a server answers, and ends the connection where the
// reader says that the protocol's library should not see it, such as a length
// that the library would allocate without having seen the bytes.
func Guard(c net.Conn, reader interface{ Feed([]byte) bool }) net.Conn {
	return &guard{c, reader}
}

type guard struct {
	net.Conn
	reader interface{ Feed([]byte) bool }
}

// ErrForeign ends a connection that a [Guard] refused.
var ErrForeign = errors.New("the answer is not in the protocol that was spoken, or larger than any that was asked for")

func (g *guard) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if !g.reader.Feed(p[:n]) {
		_ = g.Close()
		return 0, ErrForeign
	}
	return n, err
}

// keep remembers a connection. It is false if the wire was closed meanwhile.
func (w *Wire) keep(c *conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	if w.conns == nil {
		w.conns = make(map[*conn]bool)
	}
	w.conns[c] = true
	return true
}

// ErrTooMuch ends an answer that is longer than [MaxAnswer].
var ErrTooMuch = fmt.Errorf("answered with more than %d bytes", MaxAnswer)

type conn struct {
	net.Conn
	wire *Wire
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.wire.left.Add(int64(-n)) < 0 {
		_ = c.Close()
		return 0, ErrTooMuch
	}
	return n, err
}

func (c *conn) Close() error {
	c.wire.mu.Lock()
	delete(c.wire.conns, c)
	c.wire.mu.Unlock()
	if err := c.Conn.Close(); !errors.Is(err, net.ErrClosed) { // it may be cut already
		return err
	}
	return nil
}

// Class is what errors of the network mean: [queue.ErrUnreachable], or
// [queue.ErrInvalid] where an answer was too long. Nil is for all others.
func Class(ctx context.Context, err error) error {
	var network net.Error
	var host *net.OpError
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	var errno syscall.Errno
	switch {
	case errors.Is(err, ErrTooMuch), errors.Is(err, ErrForeign):
		return queue.ErrInvalid
	case ctx.Err() != nil,
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, os.ErrDeadlineExceeded),
		errors.Is(err, ErrClosed), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed), errors.Is(err, io.ErrClosedPipe),
		errors.As(err, &host), errors.As(err, &network), errors.As(err, &errno),
		errors.As(err, &cert), errors.As(err, &record), errors.As(err, &alert):
		return queue.ErrUnreachable
	}
	return nil
}

// Names joins tables of names. The later ones win.
func Names(tables ...map[string]string) map[string]string {
	out := make(map[string]string)
	for _, t := range tables {
		maps.Copy(out, t)
	}
	return out
}

// HostPorts is a rule: one or more of host:port.
func HostPorts(addresses []string) bool {
	for _, a := range addresses {
		host, port, err := net.SplitHostPort(a)
		if err != nil || host == "" || port == "" {
			return false
		}
	}
	return len(addresses) > 0
}
