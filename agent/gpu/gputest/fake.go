// Package gputest has a [gpu.Driver] in memory, and the suite that it and the
// real one pass.
package gputest

import (
	"cmp"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gpupool/gpupool/agent/gpu"
	"github.com/gpupool/gpupool/agent/nvmltest"
)

// Driver is a [gpu.Driver] that answers from a state in memory, with the
// keys and the meaning of the fake library's file.
type Driver struct {
	mu    sync.Mutex
	state nvmltest.State
	users int
	inits int
}

var _ gpu.Driver = (*Driver)(nil)

// Set replaces the state. Nil is a host without a driver.
func (d *Driver) Set(s nvmltest.State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state = s
}

// Inits is how often the driver was initialised, successfully or not.
func (d *Driver) Inits() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.inits
}

// Users is how many times it is initialised and not shut down.
func (d *Driver) Users() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.users
}

// The return codes that the fake library gives by itself.
const (
	uninitialized   = 1
	invalidArgument = 2
	driverNotLoaded = 9
	gpuIsLost       = 15
)

// failure is a return code other than success.
type failure struct {
	call string
	code int
}

// errorOf is the error for what a call returned, nil for success.
func errorOf(call string, code int) error {
	if code == 0 {
		return nil
	}
	return &failure{call, code}
}

func (f *failure) Error() string { return fmt.Sprintf("%s: return code %d", f.call, f.code) }

func (f *failure) Code() int { return f.code }

func (f *failure) Unwrap() error {
	switch f.code {
	case uninitialized:
		return gpu.ErrGone
	case driverNotLoaded:
		return gpu.ErrNotLoaded
	case gpuIsLost, 16: // needs a reset
		return gpu.ErrLost
	case 3, 13, 25: // by the GPU, by the library, in this version
		return gpu.ErrUnsupported
	}
	return nil
}

func (d *Driver) text(key, otherwise string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return cmp.Or(d.state[key], otherwise)
}

func (d *Driver) number(key string, otherwise int) int {
	n, err := strconv.Atoi(d.text(key, strconv.Itoa(otherwise)))
	if err != nil {
		panic(fmt.Sprintf("%s: %v", key, err))
	}
	return n
}

// hang sleeps while the state has the key, and no longer than it says.
func (d *Driver) hang(key string) {
	const step = 5 * time.Millisecond
	for waited := time.Duration(0); waited < time.Duration(d.number(key, 0))*time.Millisecond; waited += step {
		time.Sleep(step)
	}
}

// Init succeeds unless the state says otherwise.
func (d *Driver) Init() error {
	d.hang("init_hang_ms")
	code := d.number("init_err", 0)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inits++
	if d.state == nil {
		code = driverNotLoaded
	}
	if code == 0 {
		d.users++
	}
	return errorOf("nvmlInit", code)
}

// Shutdown undoes one Init.
func (d *Driver) Shutdown() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.users == 0 {
		return errorOf("nvmlShutdown", uninitialized)
	}
	d.users--
	return nil
}

// Version is the driver's.
func (d *Driver) Version() (string, error) {
	if d.Users() == 0 {
		return "", errorOf("nvmlSystemGetDriverVersion", uninitialized)
	}
	return d.text("driver", "570.86.15"), nil
}

// Count is the number of GPUs.
func (d *Driver) Count() (int, error) {
	if d.Users() == 0 {
		return 0, errorOf("nvmlDeviceGetCount", uninitialized)
	}
	return d.number("count", 0), nil
}

// Open gets a GPU.
func (d *Driver) Open(index int) (gpu.Device, error) {
	const call = "nvmlDeviceGetHandleByIndex"
	switch {
	case d.Users() == 0:
		return nil, errorOf(call, uninitialized)
	case index < 0 || index >= d.number("count", 0):
		return nil, errorOf(call, invalidArgument)
	}
	d.hang(nvmltest.GPU(index, "hang_ms"))
	if d.number(nvmltest.GPU(index, "lost"), 0) != 0 {
		return nil, errorOf(call, gpuIsLost)
	}
	return device{d, index}, nil
}

type device struct {
	driver *Driver
	index  int
}

func (d device) number(property string, otherwise int) int {
	return d.driver.number(nvmltest.GPU(d.index, property), otherwise)
}

func (d device) text(property, otherwise string) string {
	return d.driver.text(nvmltest.GPU(d.index, property), otherwise)
}

// enter is the first thing that a call does.
func (d device) enter(call string) error {
	if d.driver.Users() == 0 {
		return errorOf(call, uninitialized)
	}
	d.driver.hang(nvmltest.GPU(d.index, "hang_ms"))
	if d.index >= d.driver.number("count", 0) || d.number("lost", 0) != 0 {
		return errorOf(call, gpuIsLost)
	}
	return errorOf(call, cmp.Or(d.number("err", 0), d.number("err."+call, 0)))
}

func (d device) Identity() (gpu.Identity, error) {
	if err := d.enter("nvmlDeviceGetUUID"); err != nil {
		return gpu.Identity{}, err
	}
	return gpu.Identity{
		UUID: d.text("uuid", fmt.Sprintf("GPU-fa4e%04x-0000-4000-8000-000000000000", d.index)),
		Name: d.text("name", "NVIDIA H100 80GB HBM3"),
		PCI:  strings.ToUpper(d.text("pci", fmt.Sprintf("00000000:%02X:00.0", d.index+1))),
	}, nil
}

func (d device) Busy() (float64, error) {
	if err := d.enter("nvmlDeviceGetUtilizationRates"); err != nil {
		return 0, err
	}
	return float64(d.number("util", 0)) / 100, nil
}

func (d device) Memory() (gpu.Memory, error) {
	const mib = 1 << 20
	reserved := uint64(d.number("mem_reserved_mib", 0)) * mib
	m := gpu.Memory{
		Used:  uint64(d.number("mem_used_mib", 0)) * mib,
		Total: uint64(d.number("mem_total_mib", 81559)) * mib,
	}
	if err := d.enter("nvmlDeviceGetMemoryInfo_v2"); err == nil {
		m.Reserved = &reserved
		return m, nil
	}
	if err := d.enter("nvmlDeviceGetMemoryInfo"); err != nil {
		return gpu.Memory{}, err
	}
	m.Used += reserved
	return m, nil
}

func (d device) Power() (float64, error) {
	return float64(d.number("power_mw", 70000)) / 1000, d.enter("nvmlDeviceGetPowerUsage")
}

func (d device) Temperature() (float64, error) {
	return float64(d.number("temp", 35)), d.enter("nvmlDeviceGetTemperature")
}

func (d device) Processes() ([]gpu.Process, error) {
	if err := d.enter("nvmlDeviceGetComputeRunningProcesses"); err != nil {
		return nil, err
	}
	processes := []gpu.Process{}
	for _, word := range strings.Fields(d.text("procs", "")) {
		pid, mib, _ := strings.Cut(word, ":")
		p := gpu.Process{PID: os.Getpid()}
		if pid != "self" {
			p.PID, _ = strconv.Atoi(pid)
		}
		if n, err := strconv.ParseUint(mib, 10, 64); err == nil {
			n <<= 20
			p.Memory = &n
		}
		processes = append(processes, p)
	}
	return processes, nil
}
