// Command strategy-predictive is the strategy plugin of gpupool for Nomad
// Autoscaler: how many hosts, or instances, are needed, and why.
package main

import (
	"fmt"
	"os"
	_ "time/tzdata" // time zones, where the machine has none

	"github.com/gpupool/gpupool/internal/pluginhost"
)

func main() {
	log := pluginhost.NewLogger(pluginName)
	if err := pluginhost.Serve(pluginhost.Config{Name: pluginName, Plugin: newPlugin(log), Logger: log}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
