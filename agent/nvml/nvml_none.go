//go:build !cgo || !linux

package nvml

import (
	"errors"
	"time"

	"github.com/gpupool/gpupool/agent/gpu"
)

// Library stands for NVML in a program that was built without it.
type Library struct{}

// New makes a driver whose every call fails.
func New(string) *Library { return &Library{} }

var errBuiltWithout = errors.New("this agent was built without NVML: build it for Linux with CGO_ENABLED=1 and a C compiler")

// Init says how to build an agent that can reach GPUs.
func (*Library) Init() error { return errBuiltWithout }

// Shutdown does nothing.
func (*Library) Shutdown() error { return nil }

// Version fails as Init does.
func (*Library) Version() (string, error) { return "", errBuiltWithout }

// Count fails as Init does.
func (*Library) Count() (int, error) { return 0, errBuiltWithout }

// Open fails as Init does.
func (*Library) Open(int) (gpu.Device, error) { return nil, errBuiltWithout }

// Wait fails as Init does.
func (*Library) Wait(time.Duration) (gpu.Event, bool, error) {
	return gpu.Event{}, false, errBuiltWithout
}
