package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/agent/nvmltest"
	"github.com/gpupool/gpupool/agent/serve"
	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/mtls/mtlstest"
	"github.com/gpupool/gpupool/internal/offswitch"
	"github.com/gpupool/gpupool/internal/power/command"
)

const offKey = "a key of sixteen bytes and more"

func TestOffSwitch(t *testing.T) {
	dir := t.TempDir()
	done, keyFile := filepath.Join(dir, "done"), filepath.Join(dir, "key")
	if err := os.WriteFile(keyFile, []byte(offKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := parse([]string{"-node", "gpu-1", "-off-key", "file:" + keyFile, "-off-command", "touch " + done}, environment(nil), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	idle := fleet.Snapshot{Outside: fleet.Outside{Known: true}}
	now := idle
	snapshot := func() fleet.Snapshot { return now }
	server := httptest.NewServer(serve.Handler(serve.Config{Snapshot: snapshot, Off: cfg.off.handler(cfg.Node, snapshot, slog.New(slog.DiscardHandler))}))
	t.Cleanup(server.Close)
	send := func() error {
		return offswitch.Sender{Key: []byte(offKey), By: "a test"}.Send(t.Context(), server.Listener.Addr().String(), "gpu-1")
	}

	now.GPUs = []fleet.GPU{{Processes: fleet.Processes{Total: 1}}}
	if err := send(); err == nil || !strings.Contains(err.Error(), "1 of its GPUs are in use") {
		t.Errorf("a host with work: %v", err)
	}
	now = fleet.Snapshot{Outside: fleet.Outside{Why: "not root"}}
	if err := send(); err == nil || !strings.Contains(err.Error(), "not root") {
		t.Errorf("an agent that cannot tell: %v", err)
	}
	if _, err := os.Stat(done); err == nil {
		t.Fatal("it went off all the same")
	}
	now = idle
	if err := send(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(done); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the command was not run")
		}
	}
}

// TestOffOverTLS: gpupool off, as the program that it is, orders an agent that
// wants a client's certificate. One who has none, or another's, orders nothing and
// is told so.
func TestOffOverTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	done, keyFile, program := filepath.Join(dir, "done"), filepath.Join(dir, "key"), filepath.Join(dir, "gpupool")
	if err := os.WriteFile(keyFile, []byte(offKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", program, "../cmd/gpupool").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ca, other := mtlstest.NewCA(t, "ours"), mtlstest.NewCA(t, "another")
	own, operator, stranger := ca.Issue(t, t.TempDir(), "gpupool-agent"), ca.Issue(t, t.TempDir(), "operator"), other.Issue(t, t.TempDir(), "operator")
	h := on(t, nvmltest.State{"count": "1"})
	h.args = append(h.args, "-tls-cert", own.Cert, "-tls-key", own.Key, "-tls-client-ca", own.CA, "-off-key", "file:"+keyFile, "-off-command", "touch "+done)
	h.start()

	order := func(flags ...string) (status int, said string) {
		cmd := exec.Command(program, append([]string{"off"}, flags...)...)
		cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"version":1,"action":"off_soft","host":%q,"address":%q,"password":%q,"timeout_s":10}`, h.node, h.addr, offKey))
		out, err := cmd.CombinedOutput()
		if exited := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exited) {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), string(out)
	}
	for _, c := range []struct {
		name, want string
		status     int
		flags      []string
	}{
		{"no TLS", "HTTPS server", command.ExitRefused, nil},
		{"no certificate", "agent refused the client certificate", command.ExitAuth, []string{"--agent-tls", "--agent-ca-file", own.CA}},
		{"another's certificate", "agent refused the client certificate", command.ExitAuth,
			[]string{"--agent-tls", "--agent-ca-file", own.CA, "--agent-cert-file", stranger.Cert, "--agent-key-file", stranger.Key}},
		{"the agent is another's", "agent unreachable", command.ExitUnreachable,
			[]string{"--agent-tls", "--agent-ca-file", stranger.CA, "--agent-cert-file", operator.Cert, "--agent-key-file", operator.Key}},
		{"half a pair", "TLS to the agent", command.ExitRefused, []string{"--agent-tls", "--agent-cert-file", operator.Cert}},
		{"files without TLS", "--agent-tls is not set", command.ExitRefused, []string{"--agent-ca-file", own.CA}},
	} {
		if status, said := order(c.flags...); status != c.status || !strings.Contains(said, c.want) {
			t.Errorf("%s: status %d, want %d with %q:\n%s", c.name, status, c.status, c.want, said)
		}
	}
	if _, err := os.Stat(done); err == nil {
		t.Fatal("it went off all the same")
	}

	flags := []string{"--agent-tls", "--agent-ca-file", own.CA, "--agent-cert-file", operator.Cert, "--agent-key-file", operator.Key}
	if !isRoot { // nobody but root knows whether the GPUs are in use
		if status, said := order(flags...); status != command.ExitRefused || !strings.Contains(said, "nobody knows") {
			t.Errorf("status %d:\n%s", status, said)
		}
		return
	}
	h.eventually("it goes off", func() bool {
		status, said := order(flags...)
		if status != 0 && status != command.ExitRefused { // refused until its GPUs are known to be idle
			t.Fatalf("status %d:\n%s", status, said)
		}
		return status == 0
	})
	h.eventually("the command runs", func() bool {
		_, err := os.Stat(done)
		return err == nil
	})
}

func TestOffKeysThatAreNone(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-off-key", "hunter2"}, "-off-key: a credential is written in clear"},
		{[]string{"-off-key", "env:SHORT_KEY_OF_TESTS"}, "has 5 bytes, want at least 16"},
		{[]string{"-off-key", "env:LONG_KEY_OF_TESTS", "-off-command", " "}, "-off-command is empty"},
	} {
		t.Setenv("SHORT_KEY_OF_TESTS", "short")
		t.Setenv("LONG_KEY_OF_TESTS", offKey)
		_, err := parse(append(c.args, "-node", "gpu-1"), environment(nil), io.Discard)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v: %v, want %q", c.args, err, c.want)
		}
	}
}
