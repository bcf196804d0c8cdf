// Command demo plays gpupool's main story on this machine, on real parts: a
// Consul, a Nomad, the Nomad Autoscaler with gpupool's plugins, and three GPU
// hosts that are off until their BMC is told over IPMI to power them on. Only
// the GPUs are not real.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/gpupool/gpupool/e2e/stage"
)

func main() {
	mode := flag.String("mode", "full", "quick: as fast as the parts are, and end; full: slow enough to follow, and stay until Ctrl-C")
	keep := flag.Bool("keep", false, "keep the folder with all logs and configuration files")
	flag.Parse()
	if *mode != "quick" && *mode != "full" {
		fmt.Fprintf(os.Stderr, "demo: there is no mode %q: quick or full\n", *mode)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, *mode == "quick", *keep)
	switch {
	case err == nil:
	case ctx.Err() != nil && *mode == "full":
		fmt.Println("\nstopped; nothing is left running")
	default:
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, quick, keep bool) (err error) {
	dir, err := os.MkdirTemp("", "gpupool-demo-")
	if err != nil {
		return err
	}
	s := newScreen(os.Stdout, term.IsTerminal(int(os.Stdout.Fd())))
	defer func() {
		// A failure keeps what tells of it.
		if keep || err != nil && ctx.Err() == nil {
			fmt.Fprintf(os.Stderr, "logs and configuration files: %s\n", dir)
		} else {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	s.say("gpupool: one machine plays a Nomad cluster with three GPU hosts, all powered off.")
	s.say("Everything listens on 127.0.0.0/8 and ends with this program.")

	pace := stage.Config{Dir: dir, Hosts: 3, Boot: 2 * time.Second, ScaleInAfter: 5 * time.Second, Progress: func(m string) { s.say("%s", m) }}
	if !quick {
		pace.Boot, pace.ScaleInAfter = 8*time.Second, 15*time.Second
	}
	st, err := stage.Up(ctx, pace)
	if err != nil {
		return err
	}
	defer func() {
		s.stop()
		if closeErr := st.Close(); closeErr != nil && err == nil {
			err = closeErr
		}
	}()
	s.start(ctx, st)
	times, err := play(ctx, st, s, quick)
	if err != nil {
		return err
	}
	s.stop()
	times.print(os.Stdout)
	if quick {
		return nil
	}
	s.start(ctx, st)
	s.say("The story is over; the cluster is yours until Ctrl-C:")
	s.say("  export NOMAD_ADDR=%s CONSUL_HTTP_ADDR=%s", st.NomadAddr(), st.ConsulAddr())
	s.say("  nomad job run -var command='exec sleep 60' jobs/train.nomad.hcl     bin/gpupool status")
	<-ctx.Done()
	return ctx.Err()
}
