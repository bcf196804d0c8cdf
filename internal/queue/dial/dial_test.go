package dial

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/queuetest"
	"github.com/gpupool/gpupool/internal/setting"
)

func TestDeclareTLS(t *testing.T) {
	certs := queuetest.NewCerts(t)
	huge := filepath.Join(t.TempDir(), "huge.pem")
	if err := os.WriteFile(huge, make([]byte, maxPEM+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		given map[string]string
		want  string // "" means that it is right
	}{
		{nil, ""},
		{map[string]string{"ca_file": certs.CA, "cert_file": certs.Cert, "key_file": certs.Key, "tls_server_name": "x"}, ""},
		{map[string]string{"insecure_skip_verify": "true"}, ""},
		{map[string]string{"ca_file": certs.CA, "insecure_skip_verify": "true"}, "insecure_skip_verify: stands beside ca_file"},
		{map[string]string{"cert_file": certs.Cert}, "key_file: is given without cert_file"},
		{map[string]string{"cert_file": certs.Cert, "key_file": certs.CA}, "cert_file: "},
		{map[string]string{"ca_file": certs.Key}, "has no certificate in PEM"},
		{map[string]string{"ca_file": "/none"}, "no such file"},
		{map[string]string{"ca_file": t.TempDir()}, "is not a regular file"},
		{map[string]string{"ca_file": huge}, "is larger than"},
	} {
		given := make(map[string]setting.Given)
		for k, v := range c.given {
			given[k] = setting.Given{Text: v}
		}
		r := setting.NewReader(setting.Place{}, given)
		got := DeclareTLS(r)
		err := r.Problems().Err()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.given, err, c.want)
		}
		if cfg, cfgErr := got.Config("h"); err == nil && (cfgErr != nil || cfg.MinVersion != tls.VersionTLS12) {
			t.Errorf("%v: Config: %v", c.given, cfgErr)
		}
	}
}

// listen answers each connection with f.
func listen(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go f(c)
		}
	}()
	return ln.Addr().String()
}

func TestWire(t *testing.T) {
	addr := listen(t, func(c net.Conn) {
		buf := make([]byte, 1)
		for { // a MiB for each byte
			if _, err := c.Read(buf); err != nil {
				return
			}
			_, _ = c.Write(make([]byte, 1<<20))
		}
	})
	var w Wire
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := w.Call(ctx)
	c, err := w.DialContext(ctx, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(times int) error {
		for range times {
			if _, err := c.Write([]byte("x")); err != nil {
				return err
			}
			if _, err := io.CopyN(io.Discard, c, 1<<20); err != nil {
				return err
			}
		}
		return nil
	}
	for range 3 { // the bound is for a call, not for a connection
		if err := ask(4); err != nil {
			t.Fatal(err)
		}
		done()
		done = w.Call(ctx)
	}
	if err := ask(5); !errors.Is(err, ErrTooMuch) {
		t.Errorf("5 MiB: %v", err)
	}

	if c, err = w.DialContext(ctx, "tcp", addr); err != nil {
		t.Fatal(err)
	}
	done()
	cancel() // after the call: nothing is cut
	time.Sleep(20 * time.Millisecond)
	w.left.Store(MaxAnswer)
	if err := ask(1); err != nil {
		t.Errorf("after a call whose context ended later: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	defer w.Call(ctx)()
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := c.Read(make([]byte, 1)); err == nil || Class(ctx, err) != queue.ErrUnreachable { //nolint:errorlint // Class returns it as it is
		t.Errorf("a read beyond the end of its call: %v", err)
	}

	w.Close()
	if _, err := w.DialContext(t.Context(), "tcp", addr); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestClass(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for _, c := range []struct {
		ctx  context.Context
		err  error
		want error
	}{
		{ended, errors.New("x"), queue.ErrUnreachable},
		{context.Background(), errors.New("x"), nil},
		{context.Background(), fmt.Errorf("x: %w", io.EOF), queue.ErrUnreachable},
		{context.Background(), &net.DNSError{}, queue.ErrUnreachable},
		{context.Background(), tls.AlertError(40), queue.ErrUnreachable},
		{context.Background(), fmt.Errorf("x: %w", ErrTooMuch), queue.ErrInvalid},
		{context.Background(), ErrForeign, queue.ErrInvalid},
		{context.Background(), ErrClosed, queue.ErrUnreachable},
	} {
		if got := Class(c.ctx, c.err); !errors.Is(got, c.want) {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
	for status, want := range map[int]error{
		200: nil, 202: queue.ErrInvalid, 302: queue.ErrRefused, 401: queue.ErrAuth, 404: queue.ErrMissing, 410: queue.ErrMissing, 422: queue.ErrRefused, 502: queue.ErrUnreachable,
	} {
		if got := StatusClass(status); !errors.Is(got, want) {
			t.Errorf("HTTP %d: %v, want %v", status, got, want)
		}
	}
}

// A credential that goes astray is told before anything is sent.
func TestCredentialAstray(t *testing.T) {
	c, err := NewClient(TLS{}, Auth{Username: "u", Password: "file:/none/password"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sent := false
	addr := listen(t, func(net.Conn) { sent = true })
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr, bytes.NewReader(nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := c.Do(t.Context(), req); !errors.Is(err, queue.ErrAuth) || sent {
		t.Errorf("%v, sent %v", err, sent)
	}
}

func TestHostPorts(t *testing.T) {
	for text, want := range map[string]bool{"h:1": true, "h:1 h:2": true, "[::1]:1": true, "": false, "h": false, ":1": false, "h:": false, "h:1 h": false} {
		if got := HostPorts(strings.Fields(text)); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
