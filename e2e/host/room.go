package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// cgroupParents are where Nomad makes a control group for each task: in the
// unified hierarchy, or in that of each controller.
var cgroupParents = []string{"/sys/fs/cgroup/nomad.slice/*", "/sys/fs/cgroup/*/nomad", "/sys/fs/cgroup/*/nomad/*"}

// runRoom is process 1 of the PID namespace in which a lab runs. It is there
// to end: when its standard input is closed, which the death of the lab's
// process does in any case, nothing that was started in the room is left, nor
// a control group of a task of the Nomad clients whose folders are in dir.
func runRoom(dir string) error {
	if os.Getpid() != 1 {
		return fmt.Errorf("a room is process 1 of its own PID namespace, not process %d", os.Getpid())
	}
	if err := ownProc(); err != nil {
		return err
	}
	// A terminal's Ctrl-C is for the lab, which then stops things in order.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	go func() {
		for range children {
			for reapOne() {
			}
		}
	}()
	if _, err := fmt.Println("ready"); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	_ = syscall.Kill(-1, syscall.SIGKILL)
	removeCgroups(dir)
	return nil
}

// reapOne collects one dead orphan, if there is one.
func reapOne() bool {
	pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
	return err == syscall.EINTR || pid > 0
}

// removeCgroups removes the control groups of the tasks of Nomad clients that
// were killed. The clients' folders in dir say which those are. Killed
// processes hold their groups for a moment, hence the patience.
func removeCgroups(dir string) {
	allocs, _ := filepath.Glob(filepath.Join(dir, "*", "nomad", "alloc", "*"))
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		left := false
		for _, alloc := range allocs {
			for _, parent := range cgroupParents {
				groups, _ := filepath.Glob(filepath.Join(parent, filepath.Base(alloc)+".*"))
				for _, group := range groups {
					left = removeTree(group) != nil || left
				}
			}
		}
		if !left {
			return
		}
	}
}

// removeTree removes directories, deepest first. Their files are the kernel's
// and go with them.
func removeTree(dir string) error {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			_ = removeTree(filepath.Join(dir, e.Name())) // or the parent's removal fails
		}
	}
	return syscall.Rmdir(dir)
}
