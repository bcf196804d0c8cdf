package main

import (
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/agent/serve"
	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/offswitch"
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
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(done); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the command was not run")
		}
	}
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
