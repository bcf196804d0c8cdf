// Package gpu samples the GPUs of one host.
//
// Each GPU has a goroutine of its own that makes all calls to the driver for
// it, one after another. Drivers are known to hang in a call for ever; then
// that goroutine waits, no second call is made, and the GPU is reported as
// unresponsive while the others go on. One more goroutine waits for the
// driver's events. Whoever asks for a [Sampler.Snapshot] never waits for the
// driver.
package gpu

import (
	"errors"
	"time"
)

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
	// until it is closed or Shutdown.
	Open(index int) (Device, error)
	// Wait returns the next event of the GPUs that are watched, or false if
	// none came in time. One goroutine calls it.
	Wait(patience time.Duration) (Event, bool, error)
}

// Device is one GPU. Errors wrap [ErrUnsupported], [ErrLost] or [ErrGone]
// where that is what the driver said.
type Device interface {
	Identity() (Identity, error)
	// Watch has the driver record events of this GPU for [Driver.Wait].
	Watch() error
	// Close gives back what the device holds. It makes no call that can block.
	Close()

	// Number reads one number.
	Number(Quantity) (float64, error)
	// BusySamples are the driver's own samples of [Busy] that are newer than a
	// time, in the driver's microseconds, in no order. There may be none.
	BusySamples(since uint64) ([]BusySample, error)
	Memory() (Memory, error)
	// Processes are the compute processes, whose PIDs are the host's.
	Processes() ([]Process, error)
	// Activity is what the GPU, or one of its GPU instances if instance is
	// not [WholeGPU], did since the call before for the same one. It is false
	// at the first call, and after a call that failed.
	Activity(instance int) (Activity, bool, error)
	ECC() (ECC, error)
	Rows() (Rows, error)
	Pages() (Pages, error)
	Fabric() (Fabric, error)
	NVLink() (NVLink, error)
	// MIG is how the GPU is divided.
	MIG() (MIG, error)
	// PartMemory is the memory of one of the devices that the last MIG listed.
	PartMemory(uuid string) (Memory, error)
}

// WholeGPU stands for a GPU that is not divided where a GPU instance is asked
// for.
const WholeGPU = -1

// Quantity is a number that a driver tells about a GPU.
type Quantity int

const (
	// Busy is the share of the driver's last sampling window in which a kernel
	// ran, 0 to 1.
	Busy Quantity = iota
	// Power is the present draw in watts.
	Power
	// PowerLimit is what the driver enforces, in watts.
	PowerLimit
	// Energy is what was used since the driver was loaded, in joules.
	Energy
	// Temperature of the die, in degrees Celsius.
	Temperature
	// MemoryTemperature is that of the memory, in degrees Celsius.
	MemoryTemperature
	// SMClock is the clock rate of the multiprocessors, in hertz.
	SMClock
	// MemoryClock is the clock rate of the memory, in hertz.
	MemoryClock
	// Throttling is a mask of [fleet.ThrottleReasons].
	Throttling
	// Persistence is 1 if the driver keeps the GPU initialised, else 0.
	Persistence
	// PCIeReplays counts packets that were sent again.
	PCIeReplays
	// RecoveryAction is an index of [fleet.RecoveryActions], or beyond.
	RecoveryAction
	// Quantities is how many there are.
	Quantities
)

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
	// GPUInstance and ComputeInstance are where it runs on a divided GPU, else
	// WholeGPU.
	GPUInstance, ComputeInstance int
}

// BusySample is the share of one short span of time in which a kernel ran.
type BusySample struct {
	At    uint64 // microseconds, by the driver's clock
	Share float64
}

// Activity is what a GPU did over a span of time, as ratios from 0 to 1; nil
// where the GPU does not tell.
type Activity struct {
	Over                                    time.Duration
	SM, SMOccupancy, Tensor, DRAM, Graphics *float64
}

// ECC counts memory errors; nil where the GPU does not tell.
type ECC struct {
	Enabled                        *bool
	Corrected, Uncorrected         *int64 // since the last reset
	CorrectedEver, UncorrectedEver *int64
}

// Rows are replaced memory rows.
type Rows struct {
	Corrected, Uncorrected int64
	Pending, Failed        bool
}

// Pages are retired memory pages; nil where the GPU does not tell.
type Pages struct {
	SingleBit, DoubleBit *int64
	Pending              bool
}

// Fabric is a GPU's place in the NVLink fabric.
type Fabric struct {
	State  int // index of [fleet.FabricStates]
	Status int // return code of the registration
	Health int // index of [fleet.FabricHealths]
}

// NVLink is the state of a GPU's links.
type NVLink struct {
	Links, Active int
	Errors        *int64 // nil where the GPU does not tell
}

// MIG is how a GPU is divided.
type MIG struct {
	Enabled bool
	Parts   []Part
}

// Part is a MIG device.
type Part struct {
	UUID, Profile                string
	GPUInstance, ComputeInstance int
}

// Event is something that the driver reports when it happens.
type Event struct {
	Index int // of the GPU; negative if the driver did not say which
	// XID is the number of an error, 0 for an event that only says that
	// something about the GPU changed, such as how it is divided.
	XID int
}

// What errors of a [Driver] and its devices mean.
var (
	// ErrUnsupported: the GPU, the driver or its library does not offer this.
	// It will not until another driver is loaded.
	ErrUnsupported = errors.New("not supported")
	// ErrLost: the GPU fell off the bus or needs a reset.
	ErrLost = errors.New("GPU is lost")
	// ErrResetRequired: the GPU is lost until it is reset.
	ErrResetRequired = lostUntilReset{}
	// ErrGone: the driver is not initialised any more.
	ErrGone = errors.New("driver is gone")
	// ErrNotLoaded: the kernel has no GPU driver, so nothing uses the GPUs.
	ErrNotLoaded = errors.New("driver is not loaded")
	// ErrReplaced: the library's file was replaced since this process loaded
	// it. Only a new process can load the new one.
	ErrReplaced = errors.New("library was replaced")
)

type lostUntilReset struct{}

func (lostUntilReset) Error() string { return "GPU needs a reset" }

func (lostUntilReset) Unwrap() error { return ErrLost }

// codeOf is the driver's own number of an error, or 0.
func codeOf(err error) int {
	var coded interface{ Code() int }
	if errors.As(err, &coded) {
		return coded.Code()
	}
	return 0
}
