package redfish_test

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/powertest/loopback"
	"github.com/gpupool/gpupool/internal/power/redfish"
	"github.com/gpupool/gpupool/internal/power/redfish/redfishtest"
)

// Whom the driver talks to, by certificate and config, and what it says when
// it does not.
func TestCertificates(t *testing.T) {
	other := redfishtest.Start(t, redfishtest.Options{})
	none := func(*redfishtest.Service, *redfish.Config) {}
	ca := func(s *redfishtest.Service, c *redfish.Config) { c.CAFile = s.CAFile }
	pin := func(s *redfishtest.Service, c *redfish.Config) { c.Fingerprint = s.Fingerprint }
	for _, c := range []struct {
		name string
		kind loopback.Certificate
		with func(*redfishtest.Service, *redfish.Config)
		says []string // nil if it is trusted
	}{
		{"of a CA that is not known", loopback.CASigned, none, []string{"is not trusted", `fingerprint = "sha256:`}},
		{"of the CA in ca_file", loopback.CASigned, ca, nil},
		{"of another CA", loopback.CASigned, func(_ *redfishtest.Service, c *redfish.Config) { c.CAFile = other.CAFile }, []string{"is not trusted"}},
		{"self-signed", loopback.SelfSigned, none, []string{"is not trusted", `fingerprint = "sha256:`}},
		{"self-signed and pinned", loopback.SelfSigned, pin, nil},
		{"self-signed and pinned as OpenSSL prints it", loopback.SelfSigned, func(s *redfishtest.Service, c *redfish.Config) {
			digits := strings.ToUpper(strings.TrimPrefix(s.Fingerprint, "sha256:"))
			var pairs []string
			for i := 0; i < len(digits); i += 2 {
				pairs = append(pairs, digits[i:i+2])
			}
			c.Fingerprint = "SHA256:" + strings.Join(pairs, ":")
		}, nil},
		{"another one is pinned", loopback.SelfSigned, func(_ *redfishtest.Service, c *redfish.Config) { c.Fingerprint = other.Fingerprint }, []string{"is not the pinned one", `set fingerprint = "sha256:`}},
		{"expired", loopback.Expired, ca, []string{"is not trusted", "expired"}},
		{"expired and pinned", loopback.Expired, pin, nil},
		{"for another name", loopback.WrongName, ca, []string{"is not trusted", "192.0.2.1"}},
		{"self-signed and skipped", loopback.SelfSigned, func(_ *redfishtest.Service, c *redfish.Config) { c.InsecureSkipVerify = true }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := redfishtest.Start(t, redfishtest.Options{Certificate: c.kind})
			d := open(t, s, func(rc *redfish.Config) {
				rc.CAFile = ""
				c.with(s, rc)
			})
			err := read(t, d)
			if c.says == nil {
				if err != nil {
					t.Errorf("State: %v", err)
				}
				return
			}
			if !errors.Is(err, power.ErrUnreachable) {
				t.Errorf("State: %v, want unreachable", err)
			}
			wantText(t, err, c.says...)
			if n := len(s.Requests("")); n != 0 {
				t.Errorf("%d requests were sent", n)
			}
		})
	}
}

// The fingerprint that an error proposes is the one to set.
func TestProposedFingerprint(t *testing.T) {
	s := redfishtest.Start(t, redfishtest.Options{Certificate: loopback.SelfSigned})
	err := read(t, open(t, s, func(c *redfish.Config) { c.CAFile = "" }))
	wantText(t, err, `fingerprint = "`+s.Fingerprint+`"`)
}

func TestOldTLS(t *testing.T) {
	s := redfishtest.Start(t, redfishtest.Options{MaxTLS: tls.VersionTLS11})
	err := read(t, open(t, s))
	if !errors.Is(err, power.ErrUnreachable) {
		t.Errorf("State: %v, want unreachable", err)
	}
	wantText(t, err, "TLS 1.2")
}

func TestNoTLS(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			_ = c.Close()
		}
	}()
	d, err := redfish.New(redfish.Config{Address: l.Addr().String(), Username: "gpupool", Password: "gpupool-Pass1"})
	if err != nil {
		t.Fatal(err)
	}
	err = read(t, d)
	if !errors.Is(err, power.ErrUnreachable) {
		t.Errorf("State: %v, want unreachable", err)
	}
	wantText(t, err, "does not speak TLS")
}

func TestCAFile(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{empty, "/no/such/file"} {
		_, err := redfish.New(redfish.Config{Address: "bmc", Username: "u", Password: "p", CAFile: file})
		wantText(t, err, "ca_file: ", file)
	}
}
