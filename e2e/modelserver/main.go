// The modelserver program is a model server without a model: it speaks as vLLM
// does, takes the time to load that it is told, and ends on SIGTERM when it has
// answered the requests that it has. Package enginetest is what it serves.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/gpupool/gpupool/internal/engine/enginetest"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "modelserver:", err)
		os.Exit(1)
	}
}

func run() error {
	var cfg enginetest.Config
	listen := flag.String("listen", "127.0.0.1:8000", "`host:port` to serve on")
	load := flag.Duration("load", 5*time.Second, "`time` that loading the model takes, in which nobody listens")
	flag.StringVar(&cfg.Model, "model", "fake/model", "`name` of the model")
	flag.IntVar(&cfg.Slots, "slots", 4, "`requests` that are worked on at a time")
	flag.DurationVar(&cfg.First, "first", 50*time.Millisecond, "`time` to the first token")
	flag.DurationVar(&cfg.Token, "token", 10*time.Millisecond, "`time` to each token after it")
	flag.DurationVar(&cfg.Wake, "wake", time.Second, "`time` that waking takes")
	flag.BoolVar(&cfg.Sleeps, "sleeps", false, "offer /sleep and /wake_up, to whoever asks")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	select {
	case <-time.After(*load):
	case <-ctx.Done():
		return nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", *listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: enginetest.New(cfg), ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	fmt.Println("modelserver: serving", cfg.Model, "on", listener.Addr())
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	if err := server.Shutdown(context.Background()); err != nil {
		return err
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
