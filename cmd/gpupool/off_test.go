package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/offswitch"
	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/command"
)

const offKey = "a key of sixteen bytes and more"

func TestOffSaysWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		in, want string
		status   int // 0 for none of its own
	}{
		{"", "standard input is no request", 0},
		{`{"version": 2}`, "version 2, want 1", 0},
		{`{"version": 1, "action": "on"}`, "on: an agent shuts its host down, and no more", command.ExitUnsupported},
		{`{"version": 1, "action": "off_soft", "host": "gpu-1", "address": "127.0.0.1:1", "password": "short"}`, "the key of at least 16 bytes", command.ExitRefused},
		{`{"version": 1, "action": "off_soft", "host": "gpu-1", "address": "127.0.0.1:1", "password": "` + offKey + `"}`, "agent unreachable", command.ExitUnreachable},
	} {
		err := off(t.Context(), strings.NewReader(c.in), &agentFlags{})
		status := 0
		if e, ok := errors.AsType[exit](err); ok {
			status = e.status
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || status != c.status || strings.Contains(err.Error(), offKey) {
			t.Errorf("%s: %v with status %d, want %q with %d", c.in, err, status, c.want, c.status)
		}
	}
}

// The command driver runs it, as it would for a host without a power
// controller, and understands what it says.
func TestOffIsAProgramOfTheCommandDriver(t *testing.T) {
	program := filepath.Join(t.TempDir(), "gpupool")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	offs, busy := 0, ""
	mux := http.NewServeMux()
	mux.Handle("POST "+offswitch.Path, &offswitch.Switch{
		Node: "gpu-1", Key: func() ([]byte, error) { return []byte(offKey), nil },
		Busy: func() string { return busy }, Off: func(string) error { offs++; return nil },
	})
	agent := httptest.NewServer(mux)
	t.Cleanup(agent.Close)
	driver := func(key string) *command.Driver {
		d, err := command.New(command.Config{
			Host: "gpu-1", Address: agent.Listener.Addr().String(), Password: power.Secret(key),
			State: []string{"/bin/echo", "on"}, On: []string{"/bin/true"}, OffSoft: []string{program, "off"},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		return d
	}
	try := func(key string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		return driver(key).Off(ctx, power.Soft)
	}
	if err := try(offKey); err != nil || offs != 1 {
		t.Errorf("off %d times, %v", offs, err)
	}
	if err := try(strings.Repeat("x", 20)); !errors.Is(err, power.ErrAuth) {
		t.Errorf("another key: %v", err)
	}
	busy = "2 of its GPUs are in use"
	if err := try(offKey); !errors.Is(err, power.ErrRefused) || !strings.Contains(fmt.Sprint(err), busy) {
		t.Errorf("a host with work: %v", err)
	}
	agent.Close()
	if err := try(offKey); !errors.Is(err, power.ErrUnreachable) || offs != 1 {
		t.Errorf("no agent: %v, off %d times", err, offs)
	}
}
