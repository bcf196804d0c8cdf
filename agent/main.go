// The agent of one GPU host: it samples the GPUs, serves what it sees over
// HTTP and registers in Consul. docs/reference/agent.md describes it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	build "github.com/gpupool/gpupool/internal/version"
)

// version is what the agent calls itself.
var version = build.String()

func main() { os.Exit(run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr)) }

// run is the whole program but the signals' effect on the process. Its result
// is the exit status: 0 after a signal, 1 for a failure, 2 for a mistake in
// the configuration.
func run(args []string, env func(string) string, stdout, stderr io.Writer) int {
	cfg, err := parse(args, env, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		_, _ = fmt.Fprintf(stderr, "agent: configuration:\n%v\n", err)
		return 2
	case cfg.Version:
		_, _ = fmt.Fprintln(stdout, version)
		return 0
	}
	beSmall(env)
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: cfg.LogLevel}))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := serveHost(ctx, cfg, log); err != nil {
		log.Error("the agent failed", "error", err)
		return 1
	}
	return 0
}

// beSmall keeps the agent out of the way of the work on its host, whatever
// the size of that host, unless the operator says otherwise in Go's own
// environment variables. One processor is enough, and spares the waking of
// others for microseconds of work: a call to the driver that hangs gives it back
// within 10 ms. Five megabytes are in use, so that collecting garbage half as often
// costs as much again.
func beSmall(env func(string) string) {
	if env("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
	if env("GOGC") == "" {
		debug.SetGCPercent(200)
	}
	if env("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(64 << 20)
	}
}
