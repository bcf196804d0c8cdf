package pluginhost

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"
)

const listenAgain = 5 * time.Second // after an address was not to be had

// Answer serves a plugin's metrics and health at an address until ctx ends. An
// address that is not to be had, because another process has it, is waited for:
// what the plugin is for matters more.
func Answer(ctx context.Context, address string, h http.Handler, log hclog.Logger) {
	for said := ""; ctx.Err() == nil; {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", address)
		if err == nil {
			said = ""
			log.Info("metrics and health are served", "address", l.Addr().String())
			err = answer(ctx, l, h)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil && err.Error() != said {
			said = err.Error()
			log.Warn("metrics and health are not served, and tried again; set listen to another address, or to off", "address", address, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(listenAgain):
		}
	}
}

// answer serves on a listener until ctx ends.
func answer(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 15 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	err := server.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
