package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os/exec"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/offswitch"
	"github.com/gpupool/gpupool/internal/secret"
)

// offConfig is whether the agent shuts its host down when ordered to.
type offConfig struct {
	Key     string // reference to the key that orders are signed with; empty takes none
	Command string
}

func (c *offConfig) flags(f *flag.FlagSet) {
	f.StringVar(&c.Key, "off-key", "", "`reference` to the key that orders to shut this host down are signed with, env:NAME or file:PATH; without it the agent takes none")
	f.StringVar(&c.Command, "off-command", "systemctl poweroff", "`command` that shuts the host down, split at blanks")
}

func (c *offConfig) validate() error {
	if c.Key == "" {
		return nil
	}
	var errs []error
	key, err := c.key()
	switch {
	case err != nil:
		errs = append(errs, fmt.Errorf("-off-key: %w", err))
	case len(key) < offswitch.MinKey:
		errs = append(errs, fmt.Errorf("-off-key: has %d bytes, want at least %d: openssl rand -hex 32 makes one", len(key), offswitch.MinKey))
	}
	if len(strings.Fields(c.Command)) == 0 {
		errs = append(errs, errors.New("-off-command is empty"))
	}
	return errors.Join(errs...)
}

func (c *offConfig) key() ([]byte, error) {
	ref, err := secret.Parse(c.Key)
	if err != nil {
		return nil, err
	}
	key, err := ref.Resolve()
	return []byte(key), err
}

// handler takes orders, nil if none are to be taken.
func (c *offConfig) handler(node string, snapshot func() fleet.Snapshot, log *slog.Logger) http.Handler {
	if c.Key == "" {
		return nil
	}
	return &offswitch.Switch{
		Node: node, Key: c.key,
		Busy: func() string { return inUse(snapshot()) },
		Off: func(by string) error {
			log.Warn("shuts the host down", "by", by)
			return start(strings.Fields(c.Command), log)
		},
	}
}

// inUse says why a host's GPUs must not lose their power, empty if they may.
func inUse(s fleet.Snapshot) string {
	busy := 0
	for _, g := range s.GPUs {
		if g.Processes.Total > 0 {
			busy++
		}
	}
	switch {
	case busy > 0:
		return fmt.Sprintf("%d of its GPUs are in use", busy)
	case !s.Outside.Known:
		return "nobody knows whether its GPUs are in use: " + s.Outside.Why
	}
	return ""
}

// offPatience bounds the command that begins the shutdown: one that hangs is
// killed, so that the next order can try again.
const offPatience = time.Minute

// start runs a command without waiting for its end, which may be the agent's
// own, and does not end it when the agent ends.
func start(argv []string, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), offPatience)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	if err := cmd.Start(); err != nil {
		cancel()
		return err
	}
	go func() {
		defer cancel()
		if err := cmd.Wait(); err != nil {
			log.Error("the command that shuts the host down failed", "command", argv[0], "error", err)
		}
	}()
	return nil
}
