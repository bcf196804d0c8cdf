// Command gpupool is the operator's tool: it shows what a pool does and why,
// and tries policies on demand before they are trusted with a rack.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func main() {
	if err := newRoot().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "gpupool:", err)
		os.Exit(1)
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "gpupool",
		Short:         "Autoscaled GPU hosts under HashiCorp Nomad",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newStatus(), newExplain(), newAdvise(), newPower(), newSimulate(), newTune())
	return root
}
