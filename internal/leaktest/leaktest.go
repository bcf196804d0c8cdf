// Package leaktest looks for goroutines that should be gone, for suites of tests
// that run beside others: it knows those that are meant by parts of the names of
// their functions.
package leaktest

import (
	"runtime"
	"slices"
	"strings"
	"time"
)

// Left waits until no goroutine has one of the frames in its stack, at most for
// so long, and returns the stacks of those that have.
func Left(frames []string, wait time.Duration) []string {
	for end := time.Now().Add(wait); ; time.Sleep(20 * time.Millisecond) {
		left := stacks(frames)
		if len(left) == 0 || !time.Now().Before(end) {
			return left
		}
	}
}

// stacks are those of the goroutines that have one of the frames in them.
func stacks(frames []string) []string {
	buf := make([]byte, 4<<20)
	all := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
	return slices.DeleteFunc(all, func(stack string) bool {
		return !slices.ContainsFunc(frames, func(f string) bool { return strings.Contains(stack, f) })
	})
}
