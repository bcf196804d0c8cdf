package nvml

import (
	"fmt"

	"github.com/gpupool/gpupool/agent/gpu"
)

// Error is a return code of NVML (nvmlReturn_t in NVIDIA's NVML API
// reference) that is not success. It wraps the error of package gpu that
// says what the code means for sampling, if there is one.
type Error struct {
	Call   string // the function that returned it
	Number int
}

// The codes that mean something to the agent.
const (
	uninitialized    = 1
	notSupported     = 3
	noPermission     = 4
	notFound         = 6
	driverNotLoaded  = 9
	libraryNotFound  = 12
	functionNotFound = 13
	gpuIsLost        = 15
	resetRequired    = 16
	operatingSystem  = 17
	versionMismatch  = 18
	argumentVersion  = 25
)

// meanings has what to tell people about a code, with the mend where there is
// one, and what it means for sampling.
var meanings = map[int]struct {
	text string
	is   error
}{
	uninitialized:    {"NVML is not initialised", gpu.ErrGone},
	2:                {"invalid argument", nil},
	notSupported:     {"not supported by this GPU", gpu.ErrUnsupported},
	noPermission:     {"no permission: the agent needs root and access to /dev/nvidia*", nil},
	notFound:         {"not found", nil},
	7:                {"buffer too small", nil},
	driverNotLoaded:  {"the NVIDIA driver is not loaded: see lsmod and dmesg for the nvidia module", gpu.ErrNotLoaded},
	10:               {"time-out", nil},
	11:               {"interrupt problem", nil},
	libraryNotFound:  {"NVML cannot load a part of itself", nil},
	functionNotFound: {"not in this version of the NVML library", gpu.ErrUnsupported},
	gpuIsLost:        {"the GPU fell off the bus or is otherwise inaccessible", gpu.ErrLost},
	resetRequired:    {"the GPU needs a reset", gpu.ErrResetRequired},
	operatingSystem:  {"the operating system blocked the call: a device cgroup may hide /dev/nvidia*", nil},
	versionMismatch:  {"the NVIDIA driver and its library are of different versions: reload the driver or reboot", nil},
	19:               {"in use", nil},
	20:               {"out of memory", nil},
	21:               {"no data", nil},
	argumentVersion:  {"this version of the call is not in the NVML library", gpu.ErrUnsupported},
	999:              {"unknown error inside the driver", nil},
}

func (e *Error) Error() string {
	text := meanings[e.Number].text
	if text == "" {
		text = "return code unknown to the agent"
	}
	return fmt.Sprintf("%s: %s (NVML %d)", e.Call, text, e.Number)
}

// Unwrap is what the code means for sampling.
func (e *Error) Unwrap() error { return meanings[e.Number].is }

// Code is the return code.
func (e *Error) Code() int { return e.Number }

// ErrorOf is the error for what a call returned, nil for success.
func ErrorOf(call string, code int) error {
	if code == 0 {
		return nil
	}
	return &Error{call, code}
}
