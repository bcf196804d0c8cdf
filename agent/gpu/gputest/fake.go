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
	mu      sync.Mutex
	state   nvmltest.State
	users   int
	inits   int
	watched map[int]bool // GPUs by index, since Init
	event   string       // serial number of the last event that was taken
	open    int
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

// OpenDevices is how many devices were opened and not closed.
func (d *Driver) OpenDevices() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open
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
	notSupported    = 3
	notFound        = 6
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
	case gpuIsLost:
		return gpu.ErrLost
	case 16:
		return gpu.ErrResetRequired
	case notSupported, 13, 25: // by the GPU, by the library, in this version
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
		d.watched = map[int]bool{}
		d.event, _, _ = strings.Cut(d.state["event"], " ")
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
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open++
	return &device{driver: d, index: index, activity: map[int]time.Time{}}, nil
}

// Wait looks for an event every 100 ms.
func (d *Driver) Wait(patience time.Duration) (gpu.Event, bool, error) {
	const step = 100 * time.Millisecond
	if code := d.number("err.nvmlEventSetWait_v2", 0); code != 0 {
		return gpu.Event{}, false, errorOf("nvmlEventSetWait", code)
	}
	for waited := time.Duration(0); waited < patience; waited += step {
		if e, ok := d.next(); ok {
			return e, true, nil
		}
		time.Sleep(step)
	}
	return gpu.Event{}, false, nil
}

// next takes the event of the state, if it is new and its GPU is watched.
func (d *Driver) next() (e gpu.Event, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var serial string
	var kind, data int
	if _, err := fmt.Sscan(d.state["event"], &serial, &e.Index, &kind, &data); err != nil || serial == d.event {
		return gpu.Event{}, false
	}
	d.event = serial
	const xid = 8
	if kind == xid {
		e.XID = data
	}
	return e, d.watched[e.Index]
}

type device struct {
	driver   *Driver
	index    int
	activity map[int]time.Time // when it was last asked, by GPU instance
}

func (d *device) number(property string, otherwise int) int {
	return d.driver.number(nvmltest.GPU(d.index, property), otherwise)
}

func (d *device) text(property, otherwise string) string {
	return d.driver.text(nvmltest.GPU(d.index, property), otherwise)
}

// enter is the first thing that a call does.
func (d *device) enter(call string) error {
	if d.driver.Users() == 0 {
		return errorOf(call, uninitialized)
	}
	d.driver.hang(nvmltest.GPU(d.index, "hang_ms"))
	if d.index >= d.driver.number("count", 0) || d.number("lost", 0) != 0 {
		return errorOf(call, gpuIsLost)
	}
	return errorOf(call, cmp.Or(d.number("err", 0), d.number("err."+call, 0)))
}

func (d *device) Identity() (gpu.Identity, error) {
	if err := d.enter("nvmlDeviceGetUUID"); err != nil {
		return gpu.Identity{}, err
	}
	return gpu.Identity{
		UUID: d.text("uuid", fmt.Sprintf("GPU-fa4e%04x-0000-4000-8000-000000000000", d.index)),
		Name: d.text("name", "NVIDIA H100 80GB HBM3"),
		PCI:  strings.ToUpper(d.text("pci", fmt.Sprintf("00000000:%02X:00.0", d.index+1))),
	}, nil
}

func (d *device) Watch() error {
	if err := d.enter("nvmlDeviceRegisterEvents"); err != nil {
		return err
	}
	d.driver.mu.Lock()
	defer d.driver.mu.Unlock()
	d.driver.watched[d.index] = true
	return nil
}

func (d *device) Close() {
	d.driver.mu.Lock()
	defer d.driver.mu.Unlock()
	d.driver.open--
}

// quantities are the numbers: the call, the property, what it is if absent
// (none for not supported), and its unit in that of [gpu.Quantity].
var quantities = [gpu.Quantities]struct {
	call, property, otherwise string
	unit                      float64
}{
	gpu.Busy:              {"nvmlDeviceGetUtilizationRates", "util", "0", 0.01},
	gpu.Power:             {"nvmlDeviceGetPowerUsage", "power_mw", "70000", 1e-3},
	gpu.PowerLimit:        {"nvmlDeviceGetEnforcedPowerLimit", "power_limit_mw", "700000", 1e-3},
	gpu.Energy:            {"nvmlDeviceGetTotalEnergyConsumption", "energy_mj", "0", 1e-3},
	gpu.Temperature:       {"nvmlDeviceGetTemperature", "temp", "35", 1},
	gpu.MemoryTemperature: {"nvmlDeviceGetFieldValues", "mem_temp", "-", 1},
	gpu.SMClock:           {"nvmlDeviceGetClockInfo", "sm_mhz", "1980", 1e6},
	gpu.MemoryClock:       {"nvmlDeviceGetClockInfo", "mem_mhz", "2619", 1e6},
	gpu.Throttling:        {"nvmlDeviceGetCurrentClocksEventReasons", "throttle", "0", 1},
	gpu.Persistence:       {"nvmlDeviceGetPersistenceMode", "persistence", "1", 1},
	gpu.PCIeReplays:       {"nvmlDeviceGetPcieReplayCounter", "pcie_replays", "0", 1},
	gpu.RecoveryAction:    {"nvmlDeviceGetFieldValues", "recovery", "0", 1},
}

func (d *device) Number(q gpu.Quantity) (float64, error) {
	of := quantities[q]
	if err := d.enter(of.call); err != nil {
		return 0, err
	}
	n, err := d.list(of.call, of.property, of.otherwise)
	if err != nil {
		return 0, err
	}
	return float64(n[0]) * of.unit, nil
}

// list is a property that is a list of numbers, or "-" for not supported.
func (d *device) list(call, property, otherwise string) (numbers []int64, err error) {
	text := d.text(property, otherwise)
	if text == "-" {
		return nil, errorOf(call, notSupported)
	}
	for _, word := range strings.Fields(text) {
		n, err := strconv.ParseInt(word, 0, 64)
		if err != nil {
			panic(fmt.Sprintf("%s: %v", property, err))
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}

// The driver's samples: six a second, of which it keeps a hundred.
const (
	sampleEvery = 166_667 // microseconds
	samplesKept = 100
)

func (d *device) BusySamples(since uint64) (samples []gpu.BusySample, err error) {
	const call = "nvmlDeviceGetSamples"
	if err := d.enter(call); err != nil {
		return nil, err
	}
	newest, err := d.list(call, "samples", "")
	if err != nil {
		return nil, err
	}
	now := uint64(time.Now().UnixMicro()) / sampleEvery
	for i := range uint64(samplesKept) {
		if at := (now - i) * sampleEvery; at > since {
			percent := int64(d.number("util", 0))
			if n := len(newest); int(i) < n {
				percent = newest[n-1-int(i)]
			}
			samples = append(samples, gpu.BusySample{At: at, Share: float64(percent) / 100})
		}
	}
	return samples, nil
}

func (d *device) Memory() (gpu.Memory, error) {
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

func (d *device) Processes() ([]gpu.Process, error) {
	if err := d.enter("nvmlDeviceGetComputeRunningProcesses"); err != nil {
		return nil, err
	}
	processes := []gpu.Process{}
	seen := map[int]bool{}
	compute := strings.Fields(d.text("procs", ""))
	for i, word := range append(compute, strings.Fields(d.text("mps_procs", ""))...) {
		fields := append(strings.Split(word, ":"), "", "", "")
		p := gpu.Process{PID: os.Getpid(), GPUInstance: gpu.WholeGPU, ComputeInstance: gpu.WholeGPU}
		if fields[0] != "self" {
			p.PID, _ = strconv.Atoi(fields[0])
		}
		if n, err := strconv.ParseUint(fields[1], 10, 64); err == nil {
			n <<= 20
			p.Memory = &n
		}
		if gi, err := strconv.Atoi(fields[2]); err == nil {
			p.GPUInstance = gi
			p.ComputeInstance, _ = strconv.Atoi(fields[3])
		}
		if i < len(compute) || !seen[p.PID] { // MPS clients are listed as compute processes too
			processes = append(processes, p)
		}
		seen[p.PID] = true
	}
	return processes, nil
}

func (d *device) Activity(instance int) (a gpu.Activity, ok bool, err error) {
	const call = "nvmlGpmSampleGet"
	if err := d.enter(call); err != nil {
		return gpu.Activity{}, false, err
	}
	if d.number("gpm", 1) == 0 {
		return gpu.Activity{}, false, errorOf(call, notSupported)
	}
	of := "gpm."
	if instance != gpu.WholeGPU {
		of = fmt.Sprintf("gi%d.", instance)
	}
	ratio := func(property string) *float64 {
		n, err := d.list(call, of+property, "0")
		if err != nil {
			return nil
		}
		r := float64(n[0]) / 100
		return &r
	}
	before := d.activity[instance]
	d.activity[instance] = time.Now()
	return gpu.Activity{
		Over: time.Since(before), SM: ratio("sm"), SMOccupancy: ratio("occupancy"),
		Tensor: ratio("tensor"), DRAM: ratio("dram"), Graphics: ratio("graphics"),
	}, !before.IsZero(), nil
}

func (d *device) ECC() (gpu.ECC, error) {
	const call = "nvmlDeviceGetEccMode"
	if err := d.enter(call); err != nil {
		return gpu.ECC{}, err
	}
	n, err := d.list(call, "ecc", "0 0 0 0")
	if err != nil {
		return gpu.ECC{}, err
	}
	if on := n[0] >= 0; on {
		return gpu.ECC{Enabled: &on, Corrected: &n[0], Uncorrected: &n[1], CorrectedEver: &n[2], UncorrectedEver: &n[3]}, nil
	}
	return gpu.ECC{Enabled: new(bool)}, nil
}

func (d *device) Rows() (gpu.Rows, error) {
	const call = "nvmlDeviceGetRemappedRows"
	if err := d.enter(call); err != nil {
		return gpu.Rows{}, err
	}
	n, err := d.list(call, "rows", "0 0 0 0")
	if err != nil {
		return gpu.Rows{}, err
	}
	return gpu.Rows{Corrected: n[0], Uncorrected: n[1], Pending: n[2] != 0, Failed: n[3] != 0}, nil
}

func (d *device) Pages() (gpu.Pages, error) {
	const call = "nvmlDeviceGetRetiredPagesPendingStatus"
	if err := d.enter(call); err != nil {
		return gpu.Pages{}, err
	}
	n, err := d.list(call, "pages", "-")
	if err != nil {
		return gpu.Pages{}, err
	}
	return gpu.Pages{SingleBit: &n[0], DoubleBit: &n[1], Pending: n[2] != 0}, nil
}

func (d *device) Fabric() (gpu.Fabric, error) {
	const call = "nvmlDeviceGetGpuFabricInfoV"
	if err := d.enter(call); err != nil {
		return gpu.Fabric{}, err
	}
	n, err := d.list(call, "fabric", "0 0 0")
	if err != nil {
		return gpu.Fabric{}, err
	}
	return gpu.Fabric{State: int(n[0]), Status: int(n[1]), Health: int(n[2])}, nil
}

func (d *device) NVLink() (gpu.NVLink, error) {
	const call = "nvmlDeviceGetNvLinkState"
	if err := d.enter(call); err != nil {
		return gpu.NVLink{}, err
	}
	n, err := d.list(call, "nvlinks", "-")
	if err != nil {
		return gpu.NVLink{}, err
	}
	return gpu.NVLink{Links: int(n[0]), Active: int(n[1]), Errors: &n[2]}, nil
}

func (d *device) MIG() (gpu.MIG, error) {
	if err := d.enter("nvmlDeviceGetMigMode"); err != nil {
		return gpu.MIG{}, err
	}
	mode, err := d.list("nvmlDeviceGetMigMode", "mig", "0")
	if err != nil || mode[0] == 0 {
		return gpu.MIG{}, err
	}
	m := gpu.MIG{Enabled: true}
	for k := range migSlots {
		if p, _, _, ok := d.part(k); ok {
			m.Parts = append(m.Parts, p)
		}
	}
	return m, nil
}

// migSlots is how many MIG devices a GPU can have.
const migSlots = 7

// part is the kth MIG device and its memory in MiB.
func (d *device) part(k int) (p gpu.Part, total, used uint64, ok bool) {
	text := d.text(fmt.Sprintf("mig.%d", k), "")
	n, _ := fmt.Sscan(text, &p.UUID, &p.GPUInstance, &p.ComputeInstance, &p.Profile, &total, &used)
	return p, total << 20, used << 20, n == 6
}

func (d *device) PartMemory(uuid string) (gpu.Memory, error) {
	const call = "nvmlDeviceGetMemoryInfo_v2"
	if err := d.enter(call); err != nil {
		return gpu.Memory{}, err
	}
	mode, err := d.list(call, "mig", "0")
	if err != nil {
		return gpu.Memory{}, err
	}
	for k := range migSlots {
		if p, total, used, ok := d.part(k); ok && p.UUID == uuid && mode[0] != 0 {
			return gpu.Memory{Used: used, Total: total, Reserved: new(uint64)}, nil
		}
	}
	return gpu.Memory{}, errorOf(call, notFound)
}
