package leaktest

import (
	"testing"
	"time"
)

func stay(there chan<- struct{}, release <-chan struct{}) {
	close(there)
	<-release
}

func TestLeft(t *testing.T) {
	frames := []string{"leaktest.stay"}
	there, release := make(chan struct{}), make(chan struct{})
	go stay(there, release)
	<-there
	if left := Left(frames, 100*time.Millisecond); len(left) != 1 {
		t.Errorf("one stays, and %d are found", len(left))
	}
	time.AfterFunc(50*time.Millisecond, func() { close(release) })
	if left := Left(frames, 10*time.Second); len(left) != 0 {
		t.Errorf("none is left, and %d are found:\n%s", len(left), left)
	}
}
