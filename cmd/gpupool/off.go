package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/mtls"
	"github.com/gpupool/gpupool/internal/offswitch"
	"github.com/gpupool/gpupool/internal/power/command"
)

// exit is an error that ends the program with a status of its own.
type exit struct {
	error
	status int
}

func (e exit) Unwrap() error { return e.error }

func newOff() *cobra.Command {
	f := &agentFlags{}
	cmd := &cobra.Command{
		Use:   "off",
		Short: "Shut a host down through its agent, as a program of the command and wol drivers",
		Long: `Shut a host down through its agent, for machines without a power controller. It
is not for people: it is what off_soft names in the power block of a wol or
command host, and reads what those drivers write on standard input: host is the
Nomad node, address its agent's host:port, password the key that the agent knows
as -off-key. Its exit status is what docs/reference/power.md says of programs.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return off(cmd.Context(), cmd.InOrStdin(), f)
		},
	}
	f.registerTLS(cmd)
	return cmd
}

// maxRequest bounds what is read on standard input, in bytes.
const maxRequest = 64 << 10

func off(ctx context.Context, in io.Reader, agents *agentFlags) error {
	var r struct {
		Version  int     `json:"version"`
		Action   string  `json:"action"`
		Host     string  `json:"host"`
		Address  string  `json:"address"`
		Password string  `json:"password"`
		TimeoutS float64 `json:"timeout_s"`
	}
	if err := json.NewDecoder(io.LimitReader(in, maxRequest)).Decode(&r); err != nil {
		return fmt.Errorf("standard input is no request of the command driver: %w", err)
	}
	switch {
	case r.Version != 1:
		return fmt.Errorf("standard input is a request of version %d, want 1", r.Version)
	case r.Action != "off_soft":
		return exit{fmt.Errorf("%s: an agent shuts its host down, and no more", r.Action), command.ExitUnsupported}
	case r.Host == "" || r.Address == "" || len(r.Password) < offswitch.MinKey:
		return exit{fmt.Errorf("the power block wants host, the Nomad node; address, the agent's host:port; and password, the key of at least %d bytes", offswitch.MinKey), command.ExitRefused}
	}
	self, _ := os.Hostname() // it is for a log
	sender := offswitch.Sender{Key: []byte(r.Password), By: "gpupool off on " + self}
	if err := agents.checkTLS(); err != nil {
		return exit{err, command.ExitRefused}
	}
	if agents.TLS {
		client, err := mtls.NewClient(agents.Files, fleet.Service, slog.New(slog.DiscardHandler))
		if err != nil {
			return exit{fmt.Errorf("TLS to the agent: %w", err), command.ExitRefused}
		}
		sender.DialTLS = client.DialContext
	}
	timeout := time.Duration(r.TimeoutS * float64(time.Second))
	if timeout <= 0 || timeout > time.Minute {
		timeout = time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := sender.Send(ctx, r.Address, r.Host)
	for _, c := range []struct {
		class  error
		status int
	}{
		{offswitch.ErrUnreachable, command.ExitUnreachable}, {offswitch.ErrKey, command.ExitAuth},
		{offswitch.ErrCertificate, command.ExitAuth}, {offswitch.ErrRefused, command.ExitRefused},
	} {
		if errors.Is(err, c.class) {
			return exit{err, c.status}
		}
	}
	return err // an unclear outcome is any other end
}
