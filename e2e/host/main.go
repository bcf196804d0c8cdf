// Command host stands in for the hardware of a GPU host behind a BMC that
// ipmi_sim simulates, down to the loss of everything that runs when its power
// is cut. What it boots is real: a Consul client, a Nomad client.
//
//	host vm --serial ADDR --config FILE   the chassis: what ipmi_sim starts at power-on
//	host init --config FILE               the operating system: process 1 of the chassis
//	host room --dir DIR                   the room in which a whole lab runs, and dies
//
// A chassis is a PID namespace, and its operating system is process 1 in it:
// to kill that process is to cut the power, because the kernel then kills
// everything else in the namespace. It needs root.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
)

func init() {
	// A parent-death signal is tied to the thread that made the child. The
	// main thread is the one that lives as long as the process.
	runtime.LockOSThread()
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "host:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("say what to be: vm, init or room")
	}
	flags := flag.NewFlagSet("host "+args[0], flag.ContinueOnError)
	config := flags.String("config", "", "`FILE` that describes the host")
	serial := flags.String("serial", "", "`ADDR` of the BMC's serial channel (codec VM)")
	dir := flags.String("dir", "", "`DIR` of the lab")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	switch args[0] {
	case "vm":
		return runVM(*serial, *config)
	case "init":
		return runInit(*config)
	case "room":
		return runRoom(*dir)
	}
	return fmt.Errorf("cannot be %q, only vm, init or room", args[0])
}
