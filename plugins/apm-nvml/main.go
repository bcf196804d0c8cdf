// Command apm-nvml is the APM plugin of gpupool for Nomad Autoscaler: what the
// GPUs and the queue look like, as one series for each query.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/gpupool/gpupool/internal/pluginhost"
)

func main() {
	log := pluginhost.NewLogger(pluginName)
	p := newPlugin(log)
	err := pluginhost.Serve(pluginhost.Config{Name: pluginName, Plugin: p, Logger: log, OnExit: func(context.Context) { p.stop() }})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
