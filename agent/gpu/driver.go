// Package gpu samples the GPUs of one host.
//
// Each GPU has a goroutine of its own that makes all calls to the driver for
// it, one after another. Drivers are known to hang in a call for ever; then
// that goroutine waits, no second call is made, and the GPU is reported as
// unresponsive while the others go on. Whoever asks for a [Sampler.Snapshot]
// never waits for the driver.
package gpu

import "errors"

// Driver is the part of a GPU driver's library that the sampler calls. Any
// call can block for as long as the kernel likes. Calls are made from
// different goroutines, but Init and Shutdown are not made while any other is
// in progress.
type Driver interface {
	// Init loads and initialises the library. It may be called again after
	// it failed, and after Shutdown.
	Init() error
	Shutdown() error
	// Version is the version of the kernel driver.
	Version() (string, error)
	// Count is the number of GPUs, including those that are lost.
	Count() (int, error)
	// Open gets the GPU with an index from 0 to Count-1. A device is good
	// until Shutdown.
	Open(index int) (Device, error)
}

// Device is one GPU. Errors wrap [ErrUnsupported], [ErrLost] or [ErrGone]
// where that is what the driver said.
type Device interface {
	Identity() (Identity, error)
	// Busy is the share of the driver's last sampling window in which a
	// kernel ran, 0 to 1.
	Busy() (float64, error)
	Memory() (Memory, error)
	Power() (watts float64, err error)
	Temperature() (celsius float64, err error)
	// Processes are the compute processes, whose PIDs are the host's.
	Processes() ([]Process, error)
}

// Identity is what a GPU is.
type Identity struct{ UUID, Name, PCI string }

// Memory is a GPU's memory in bytes.
type Memory struct {
	Used, Total uint64
	// Reserved by the driver, and not in Used. Nil where the driver does not
	// tell it apart, in which case it is in Used.
	Reserved *uint64
}

// Process is a compute process on a GPU.
type Process struct {
	PID    int
	Memory *uint64 // bytes of the GPU's memory; nil where the driver does not tell
}

// What errors of a [Driver] and its devices mean.
var (
	// ErrUnsupported: the GPU, the driver or its library does not offer this.
	// It will not until another driver is loaded.
	ErrUnsupported = errors.New("not supported")
	// ErrLost: the GPU fell off the bus or needs a reset.
	ErrLost = errors.New("GPU is lost")
	// ErrGone: the driver is not initialised any more.
	ErrGone = errors.New("driver is gone")
	// ErrNotLoaded: the kernel has no GPU driver, so nothing uses the GPUs.
	ErrNotLoaded = errors.New("driver is not loaded")
	// ErrReplaced: the library's file was replaced since this process loaded
	// it. Only a new process can load the new one.
	ErrReplaced = errors.New("library was replaced")
)

// codeOf is the driver's own number of an error, or 0.
func codeOf(err error) int {
	var coded interface{ Code() int }
	if errors.As(err, &coded) {
		return coded.Code()
	}
	return 0
}
