// Package mtls makes TLS configurations of certificate files that are replaced
// while they are in use, as short-lived certificates are: each new connection
// uses the files as they are then.
package mtls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"
)

// Files are PEM files. Which of them must be there depends on the side.
type Files struct {
	Cert string // own certificate, and those between it and the CA's
	Key  string // its private key
	CA   string // certificates of those who issue the other side's
}

// Given says whether any file is named.
func (f Files) Given() bool { return f != Files{} }

// lookEvery bounds how often the files are looked at.
const lookEvery = time.Second

// maxFile bounds a file, in bytes.
const maxFile = 1 << 20

// Server is the configuration of a server with a certificate. If there is a CA
// it asks every client for a certificate of that CA, and lets no other in.
// Should the files be replaced by what cannot be used, log says so once and
// the last good ones stay.
func Server(f Files, log *slog.Logger) (*tls.Config, error) {
	if f.Cert == "" || f.Key == "" {
		return nil, errors.New("a server needs a certificate and its key")
	}
	s := &store{files: f, log: log, build: func(own []tls.Certificate, ca *x509.CertPool) *tls.Config {
		c := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: own, NextProtos: []string{"http/1.1"}}
		if ca != nil {
			c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, ca
		}
		return c
	}}
	first, err := s.load()
	if err != nil {
		return nil, err
	}
	c := first.Clone()
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.current(), nil }
	return c, nil
}

// Client connects over TLS: with a certificate of its own, if one is given, to
// servers whose certificate is for name and of the CA, or of one that the
// system trusts if no CA is given.
type Client struct {
	store  *store
	dialer net.Dialer
}

// NewClient makes a client, and checks its files.
func NewClient(f Files, name string, log *slog.Logger) (*Client, error) {
	if (f.Cert == "") != (f.Key == "") {
		return nil, errors.New("a certificate and its key go together: give both, or neither")
	}
	c := &Client{store: &store{files: f, log: log, build: func(own []tls.Certificate, ca *x509.CertPool) *tls.Config {
		return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: own, RootCAs: ca, ServerName: name}
	}}}
	if _, err := c.store.load(); err != nil {
		return nil, err
	}
	return c, nil
}

// DialContext connects. It is made for [net/http.Transport.DialTLSContext].
func (c *Client) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d := tls.Dialer{NetDialer: &c.dialer, Config: c.store.current()}
	return d.DialContext(ctx, network, address)
}

// store keeps a configuration as new as its files.
type store struct {
	files Files
	build func(own []tls.Certificate, ca *x509.CertPool) *tls.Config
	log   *slog.Logger

	mu     sync.Mutex
	looked time.Time
	stamps [3]stamp
	config *tls.Config
	failed string // the last failure that was logged
}

// stamp tells a file from another under its name.
type stamp struct {
	size int64
	at   time.Time
	info os.FileInfo
}

func (s stamp) same(t stamp) bool {
	return s.size == t.size && s.at.Equal(t.at) && (s.info == nil) == (t.info == nil) && (s.info == nil || os.SameFile(s.info, t.info))
}

// current is the configuration of the files as they were within the last
// second, or of the last that could be used.
func (s *store) current() *tls.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.looked) >= lookEvery {
		s.looked = now
		if err := s.reload(); err != nil && err.Error() != s.failed {
			s.failed = err.Error()
			s.log.Warn("cannot use the replaced certificates, so the ones before are used on", "error", err)
		}
	}
	return s.config
}

// load reads the files for the first time.
func (s *store) load() (*tls.Config, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.reload()
	return s.config, err
}

// reload reads the files if they were replaced, with s.mu held. Files that
// cannot be used are tried again each time: a key may come later than its
// certificate.
func (s *store) reload() error {
	names := [3]string{s.files.Cert, s.files.Key, s.files.CA}
	var stamps [3]stamp
	same := s.config != nil
	for i, name := range names {
		if name == "" {
			continue
		}
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		stamps[i] = stamp{info.Size(), info.ModTime(), info}
		same = same && stamps[i].same(s.stamps[i])
	}
	if same {
		return nil
	}
	var own []tls.Certificate
	var ca *x509.CertPool
	if s.files.Cert != "" {
		pair, err := readPair(s.files.Cert, s.files.Key)
		if err != nil {
			return err
		}
		own = []tls.Certificate{pair}
	}
	if s.files.CA != "" {
		text, err := readFile(s.files.CA)
		if err != nil {
			return err
		}
		ca = x509.NewCertPool()
		if !ca.AppendCertsFromPEM(text) {
			return fmt.Errorf("%s: no certificate in PEM form in it", s.files.CA)
		}
	}
	s.config, s.stamps, s.failed = s.build(own, ca), stamps, ""
	return nil
}

func readPair(cert, key string) (tls.Certificate, error) {
	c, err := readFile(cert)
	if err != nil {
		return tls.Certificate{}, err
	}
	k, err := readFile(key)
	if err != nil {
		return tls.Certificate{}, err
	}
	pair, err := tls.X509KeyPair(c, k)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s with %s: %w", cert, key, err)
	}
	return pair, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s: more than %d bytes", path, maxFile)
	}
	return text, err
}
