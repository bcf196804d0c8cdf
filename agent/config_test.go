package main

import (
	"errors"
	"flag"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpupool/gpupool/internal/mtls/mtlstest"
)

func environment(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

func TestParse(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(secret, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	certs := mtlstest.NewCA(t, "ca").Issue(t, t.TempDir(), "gpupool-agent")
	for _, tt := range []struct {
		name string
		args string
		env  map[string]string
		want func(c config) bool
	}{
		{"defaults", "-node n1", nil, func(c config) bool {
			return c.Listen == "127.0.0.1:9109" && c.TTL == 15*time.Second && c.Period == time.Second &&
				c.NVML == "libnvidia-ml.so.1" && c.host == "127.0.0.1" && c.port == 9109 && c.token == ""
		}},
		{"environment", "", map[string]string{"GPUPOOL_AGENT_NODE": "n2", "GPUPOOL_AGENT_TTL": "30s", "GPUPOOL_AGENT_TOKEN": "t"},
			func(c config) bool { return c.Node == "n2" && c.TTL == 30*time.Second && c.token == "t" }},
		{"flags win", "-node n1 -ttl 20s", map[string]string{"GPUPOOL_AGENT_NODE": "n2", "GPUPOOL_AGENT_TTL": "30s"},
			func(c config) bool { return c.Node == "n1" && c.TTL == 20*time.Second }},
		{"on all addresses, Consul knows its own", "-node n1 -listen 0.0.0.0:9109", nil,
			func(c config) bool { return c.host == "" && c.port == 9109 }},
		{"advertise", "-node n1 -listen :9109 -advertise [fd00::1]:80", nil,
			func(c config) bool { return c.host == "fd00::1" && c.port == 80 }},
		{"token in a file", "-node n1 -token-file " + secret, nil, func(c config) bool { return c.token == "s3cret" }},
		{"TLS", "-node n1 -tls-cert " + certs.Cert + " -tls-key " + certs.Key + " -tls-client-ca " + certs.CA, nil,
			func(c config) bool { return c.TLS == certs }},
		{"aliases", "-node n1", map[string]string{"GPUPOOL_AGENT_DCGM_ALIASES": "true"}, func(c config) bool { return c.Aliases }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := parse(strings.Fields(tt.args), environment(tt.env), io.Discard)
			if err != nil || !tt.want(c) {
				t.Errorf("parse = %+v, %v", c, err)
			}
		})
	}
}

func TestParseReportsAllMistakes(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"GPUPOOL_AGENT_LOG_LEVEL": "loud"}
	_, err := parse(strings.Fields("-node a/b -listen 9109 -advertise 0.0.0.0:1 -ttl 1s -period 1h -nvml= -token-file "+empty+" extra"), environment(env), io.Discard)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{`-node "a/b"`, `-listen "9109": want host:port`, `-advertise "0.0.0.0:1"`, "-ttl 1s: want 3s to 5m",
		"-period 1h0m0s: want 100ms to 10s", "-nvml is empty", "-token-file: " + empty, `argument "extra"`, `GPUPOOL_AGENT_LOG_LEVEL="loud"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error does not say %q:\n%v", want, err)
		}
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != 9 {
		t.Errorf("%d lines, want one for each of 9 mistakes:\n%v", n, err)
	}
}

func TestParseTLS(t *testing.T) {
	certs := mtlstest.NewCA(t, "ca").Issue(t, t.TempDir(), "gpupool-agent")
	for args, want := range map[string]string{
		"-tls-cert " + certs.Cert:                                  "-tls-key go together",
		"-tls-client-ca " + certs.CA:                               "-tls-key go together",
		"-tls-cert " + certs.Key + " -tls-key " + certs.Key:        certs.Key,
		"-tls-cert " + certs.Cert + " -tls-key /nonexistent/k.pem": "/nonexistent/k.pem",
	} {
		_, err := parse(strings.Fields("-node n1 "+args), environment(nil), io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want it to say %q", args, err, want)
		}
	}
}

// TestTokenFile: a token that is replaced is good within a second, and one that
// cannot be read leaves the one before good, which is said once.
func TestTokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first\n")
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		f := &tokenFile{path: path, token: "first", log: slog.New(slog.NewTextHandler(&log, nil))}
		want := func(token string) {
			t.Helper()
			if got := f.current(); got != token {
				t.Errorf("the token is %q, want %q", got, token)
			}
		}
		want("first")
		write("second\n")
		time.Sleep(lookEvery)
		want("second")
		write("")
		for range 5 {
			time.Sleep(lookEvery)
			want("second")
		}
		if n := strings.Count(log.String(), "cannot read the bearer token"); n != 1 {
			t.Errorf("said %d times that the token cannot be read, want once", n)
		}
		write("third")
		time.Sleep(lookEvery)
		want("third")
	})
}

func TestTokenIsNeverPrinted(t *testing.T) {
	env := map[string]string{"GPUPOOL_AGENT_TOKEN": "hunter two"}
	_, err := parse([]string{"-node", "n1", "-token-file", "/nonexistent"}, environment(env), io.Discard)
	if err == nil || strings.Contains(err.Error(), "hunter") {
		t.Errorf("error is %v, want one without the token", err)
	}
}

func TestHelp(t *testing.T) {
	var out strings.Builder
	if _, err := parse([]string{"-h"}, environment(nil), &out); !errors.Is(err, flag.ErrHelp) || !strings.Contains(out.String(), "-token-file") {
		t.Errorf("parse -h: %v\n%s", err, out.String())
	}
}

// TestReference keeps docs/reference/agent.md in step with the flags.
func TestReference(t *testing.T) {
	page, err := os.ReadFile("../docs/reference/agent.md")
	if err != nil {
		t.Fatal(err)
	}
	described := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `-([a-z-]+)` \\|").FindAllStringSubmatch(string(page), -1) {
		described[m[1]] = true
	}
	var c config
	flags(&c).VisitAll(func(f *flag.Flag) {
		if !described[f.Name] {
			t.Errorf("docs/reference/agent.md does not describe -%s", f.Name)
		}
		delete(described, f.Name)
	})
	for name := range described {
		t.Errorf("docs/reference/agent.md describes -%s, which is not there", name)
	}
}
