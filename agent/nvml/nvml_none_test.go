//go:build !cgo || !linux

package nvml

import (
	"strings"
	"testing"
)

func TestBuiltWithout(t *testing.T) {
	if err := New(DefaultPath).Init(); err == nil || !strings.Contains(err.Error(), "CGO_ENABLED=1") {
		t.Errorf("Init: %v, want it to say how to build the agent", err)
	}
}
