// Command gpupool is the operator's tool: it shows what a pool does and why,
// and tries policies on demand before they are trusted with a rack.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func main() {
	root := &cobra.Command{
		Use:           "gpupool",
		Short:         "Autoscaled GPU hosts under HashiCorp Nomad",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newStatus(), newPower(), newSimulate(), newTune())
	if err := root.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "gpupool:", err)
		os.Exit(1)
	}
}
