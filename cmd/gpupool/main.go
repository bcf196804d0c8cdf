// Command gpupool is the operator's tool: it shows what a pool does and why,
// and tries policies on demand before they are trusted with a rack.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/gpupool/gpupool/internal/version"
)

func main() {
	if err := newRoot().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "gpupool:", err)
		if e, ok := errors.AsType[exit](err); ok {
			os.Exit(e.status)
		}
		os.Exit(1)
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "gpupool",
		Short:         "Autoscaled GPU hosts under HashiCorp Nomad",
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newStatus(), newTop(), newPlan(), newHost(), newCheck(), newExplain(), newAdvise(), newPower(), newOff(), newSimulate(), newTune())
	return root
}

// poolArgument takes the pool from a command's one argument, which stands for
// its flag --pool.
func poolArgument(args []string, pool *string) error {
	if len(args) == 0 {
		return nil
	}
	if *pool != "" {
		return errors.New("--pool and POOL: give one")
	}
	*pool = args[0]
	return nil
}
