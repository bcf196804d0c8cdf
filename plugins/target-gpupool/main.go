// Command target-gpupool is the target plugin of gpupool for Nomad Autoscaler:
// it powers GPU hosts on and off, and drains Nomad first.
package main

import (
	"fmt"
	"os"

	"github.com/gpupool/gpupool/internal/pluginhost"
)

func main() {
	log := pluginhost.NewLogger(pluginName)
	p := newPlugin(log)
	err := pluginhost.Serve(pluginhost.Config{Name: pluginName, Plugin: p, Logger: log, OnExit: p.stop})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
