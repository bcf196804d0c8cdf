// Command gpupool-device-fake is a Nomad device plugin that offers GPUs which
// do not exist. It reads the file that drives the fake libnvidia-ml.so.1 (see
// agent/nvmltest/README.md), so that Nomad and the gpupool agent see one and
// the same host, and it names its devices as nomad-device-nvidia does:
// vendor nvidia, type gpu, the product's name, NVIDIA_VISIBLE_DEVICES for the
// task.
//
// Its Nomad configuration is
//
//	plugin "gpupool-device-fake" {
//	  config { file = "/path/to/state" }
//	}
package main

import (
	"github.com/hashicorp/go-hclog"

	"github.com/hashicorp/nomad/plugins/device"
)

func main() {
	// Nomad reads a plugin's log as JSON lines on its standard error.
	log := hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, JSONFormat: true})
	device.Serve(newPlugin(log), log)
}
