package mtls_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/mtls"
	"github.com/gpupool/gpupool/internal/mtls/mtlstest"
)

var quiet = slog.New(slog.DiscardHandler)

// serve answers every connection with the name of the client's certificate.
func serve(t *testing.T, f mtls.Files, log *slog.Logger) (addr string) {
	t.Helper()
	config, err := mtls.Server(f, log)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if conn.(*tls.Conn).Handshake() != nil {
					return
				}
				name := "nobody"
				if peers := conn.(*tls.Conn).ConnectionState().PeerCertificates; len(peers) > 0 {
					name = peers[0].Subject.CommonName
				}
				io.WriteString(conn, name)
			}()
		}
	}()
	return l.Addr().String()
}

// ask is what the server answers to one connection.
func ask(t *testing.T, c *mtls.Client, addr string) (string, error) {
	t.Helper()
	conn, err := c.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	text, err := io.ReadAll(conn)
	if len(text) == 0 && err == nil {
		err = errors.New("hung up")
	}
	return string(text), err
}

func client(t *testing.T, f mtls.Files, name string) *mtls.Client {
	t.Helper()
	c, err := mtls.NewClient(f, name, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWhoIsLetIn(t *testing.T) {
	ours, theirs := mtlstest.NewCA(t, "ours"), mtlstest.NewCA(t, "theirs")
	server := ours.Issue(t, t.TempDir(), "agent")
	mine, other := ours.Issue(t, t.TempDir(), "reader"), theirs.Issue(t, t.TempDir(), "reader")
	mutual := serve(t, server, quiet)
	oneSided := serve(t, mtls.Files{Cert: server.Cert, Key: server.Key}, quiet)
	for _, tt := range []struct {
		name    string
		client  *mtls.Client
		addr    string
		want    string // what the server answers
		wantErr bool
	}{
		{"a certificate of the CA", client(t, mine, "agent"), mutual, "reader", false},
		{"none", client(t, mtls.Files{CA: mine.CA}, "agent"), mutual, "", true},
		{"one of another CA", client(t, mtls.Files{Cert: other.Cert, Key: other.Key, CA: mine.CA}, "agent"), mutual, "", true},
		{"a server of another CA", client(t, mtls.Files{Cert: mine.Cert, Key: mine.Key, CA: other.CA}, "agent"), mutual, "", true},
		{"a server of another name", client(t, mine, "elsewhere"), mutual, "", true},
		{"a server that the system does not trust", client(t, mtls.Files{}, "agent"), oneSided, "", true},
		{"a server that asks for none", client(t, mtls.Files{CA: mine.CA}, "agent"), oneSided, "nobody", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ask(t, tt.client, tt.addr)
			if got != tt.want || (err != nil) != tt.wantErr {
				t.Errorf("answer %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

// TestReplaced: both sides go over to new certificates, even of another CA,
// without being started anew; what cannot be used meanwhile is said once.
func TestReplaced(t *testing.T) {
	before, after := mtlstest.NewCA(t, "before"), mtlstest.NewCA(t, "after")
	mine, theirs := t.TempDir(), t.TempDir()
	server, reader := before.Issue(t, mine, "agent"), before.Issue(t, theirs, "reader")
	for _, f := range []*mtls.Files{&server, &reader} {
		copied := filepath.Join(t.TempDir(), "ca.pem")
		copyFile(t, f.CA, copied)
		f.CA = copied
	}
	var log bytes.Buffer
	addr := serve(t, server, slog.New(slog.NewTextHandler(&log, nil)))
	c := client(t, reader, "agent")
	wait := func(want string) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			got, err := ask(t, c, addr)
			if got == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("answer %q, %v, want %q", got, err, want)
			}
		}
	}
	wait("reader")

	if err := os.WriteFile(server.Key, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(2500 * time.Millisecond); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		if got, err := ask(t, c, addr); got != "reader" {
			t.Fatalf("while the key cannot be used: %q, %v", got, err)
		}
	}

	after.Issue(t, mine, "agent")
	renewed := after.Issue(t, theirs, "new reader")
	copyFile(t, renewed.CA, server.CA)
	copyFile(t, renewed.CA, reader.CA)
	wait("new reader")
	if n := strings.Count(log.String(), "cannot use the replaced certificates"); n < 1 || n > 3 {
		t.Errorf("said %d times that the files cannot be used, want once for each way", n)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(to+".new", to); err != nil {
		t.Fatal(err)
	}
}

func TestRefuses(t *testing.T) {
	good := mtlstest.NewCA(t, "ca").Issue(t, t.TempDir(), "agent")
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		files mtls.Files
		want  string
	}{
		{"no key", mtls.Files{Cert: good.Cert}, "key"},
		{"a file that is not there", mtls.Files{Cert: "/nonexistent/cert.pem", Key: good.Key}, "/nonexistent/cert.pem"},
		{"the key of another", mtls.Files{Cert: good.Cert, Key: empty}, empty},
		{"a CA without certificates", mtls.Files{Cert: good.Cert, Key: good.Key, CA: empty}, empty},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := mtls.Server(tt.files, quiet); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Server: %v, want it to name %q", err, tt.want)
			}
			if _, err := mtls.NewClient(tt.files, "agent", quiet); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("NewClient: %v, want it to name %q", err, tt.want)
			}
		})
	}
	if _, err := mtls.Server(mtls.Files{CA: good.CA}, quiet); err == nil {
		t.Error("a server without a certificate was made")
	}
}

// TestPlainConnection: who speaks no TLS is not answered.
func TestPlainConnection(t *testing.T) {
	addr := serve(t, mtlstest.NewCA(t, "ca").Issue(t, t.TempDir(), "agent"), quiet)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
	if text, _ := io.ReadAll(conn); strings.Contains(string(text), "nobody") {
		t.Errorf("answered %q", text)
	}
}
