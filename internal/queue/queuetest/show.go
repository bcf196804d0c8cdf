package queuetest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/queue"
)

// Now is the time that tests read queues at.
var Now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// Show prints what [queue.Queue.Read] returned.
func Show(d queue.Depth, err error) string {
	text := fmt.Sprintf("%s, needs %v, active %v", show(d.Reading), d.Need, d.Active)
	if d.Oldest != nil {
		text += fmt.Sprintf(", oldest %s", *d.Oldest)
	}
	if err != nil {
		text += ", error: " + err.Error()
	}
	return text
}

// Eventually calls f until what it returns has want in it, for as long as a
// busy machine may need.
func Eventually(t testing.TB, want string, f func() string) {
	t.Helper()
	var got string
	for end := time.Now().Add(plenty); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if got = f(); strings.Contains(got, want) {
			return
		}
	}
	t.Fatalf("%s, want %q", got, want)
}
