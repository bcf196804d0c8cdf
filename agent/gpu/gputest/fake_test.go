package gputest

import "testing"

func TestFake(t *testing.T) {
	d := &Driver{}
	TestDriver(t, d, d.Set)
}
