//go:build cgo && linux

package nvml

import (
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/gpupool/gpupool/agent/gpu"
)

// Library is NVML.
type Library struct {
	path   string
	calls  guarded
	loaded bool
	file   string      // where it was loaded from
	info   fs.FileInfo // that file, as it was then
}

// New makes a driver that loads NVML from a path, or by a name that the
// dynamic linker looks up, at the first Init.
func New(path string) *Library { return &Library{path: path} }

// Init loads the library, if it is not, and initialises it.
func (l *Library) Init() error {
	if err := l.load(); err != nil {
		return err
	}
	ret := l.calls.Init()
	if int(ret) == versionMismatch && l.replaced() {
		return fmt.Errorf("%s: %w since the agent started", l.file, gpu.ErrReplaced)
	}
	return ErrorOf("nvmlInit", int(ret))
}

// load opens the library and finds out which calls it has. go-nvml opens it
// once more at Init, which makes no second copy; it tells neither why a
// library cannot be opened nor, before Init, which symbols there are. The
// library stays open: the dynamic linker never unloads one that a program
// was bound to.
func (l *Library) load() error {
	if l.loaded {
		return nil
	}
	library := dl.New(l.path, dl.RTLD_LAZY|dl.RTLD_GLOBAL)
	if err := library.Open(); err != nil {
		return &loadError{fmt.Errorf("load NVML: %w (install the NVIDIA driver's libraries, or name the file with -nvml)", err)}
	}
	l.calls = guarded{nvml.New(nvml.WithLibraryPath(l.path)), find(library.Lookup)}
	if !l.calls.available["Init"] || !l.calls.available["Shutdown"] {
		_ = library.Close() // nothing was bound to it
		return &loadError{fmt.Errorf("load NVML: %s is another library: it has no nvmlInit and nvmlShutdown", l.path)}
	}
	l.loaded = true
	l.file, l.info = mapped(l.path)
	return nil
}

// loadError is a library that could not be loaded, with NVML's code for it.
type loadError struct{ error }

func (*loadError) Code() int { return libraryNotFound }

// mapped is the file that a library was loaded from: the path, or for a mere
// name the file of that name beside the one that is mapped into this process.
func mapped(path string) (string, fs.FileInfo) {
	if !strings.Contains(path, "/") {
		maps, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			return "", nil
		}
		stem, _, _ := strings.Cut(path, ".so")
		for line := range strings.Lines(string(maps)) {
			if i := strings.IndexByte(line, '/'); i >= 0 && strings.HasPrefix(filepath.Base(line[i:]), stem+".so") {
				path = filepath.Join(filepath.Dir(line[i:]), path)
				break
			}
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", nil
	}
	return path, info
}

// replaced says whether the library's file is another one than was loaded.
func (l *Library) replaced() bool {
	if l.info == nil {
		return false
	}
	now, err := os.Stat(l.file)
	return err == nil && !os.SameFile(now, l.info)
}

// Shutdown undoes Init.
func (l *Library) Shutdown() error { return ErrorOf("nvmlShutdown", int(l.calls.Shutdown())) }

// Version is the version of the kernel driver.
func (l *Library) Version() (string, error) {
	v, ret := l.calls.SystemGetDriverVersion()
	return v, ErrorOf("nvmlSystemGetDriverVersion", int(ret))
}

// Count is the number of GPUs.
func (l *Library) Count() (int, error) {
	n, ret := l.calls.DeviceGetCount()
	return n, ErrorOf("nvmlDeviceGetCount", int(ret))
}

// Open gets a GPU.
func (l *Library) Open(index int) (gpu.Device, error) {
	d, ret := l.calls.DeviceGetHandleByIndex(index)
	if ret != nvml.SUCCESS {
		return nil, ErrorOf("nvmlDeviceGetHandleByIndex", int(ret))
	}
	return board{guardedDevice{flat{d}, l.calls.available}}, nil
}

// board is one GPU.
type board struct{ calls guardedDevice }

// Identity fails only without the UUID; name and bus ID are a courtesy.
func (b board) Identity() (gpu.Identity, error) {
	uuid, ret := b.calls.GetUUID()
	if ret != nvml.SUCCESS {
		return gpu.Identity{}, ErrorOf("nvmlDeviceGetUUID", int(ret))
	}
	id := gpu.Identity{UUID: uuid}
	if name, ret := b.calls.GetName(); ret == nvml.SUCCESS {
		id.Name = name
	}
	if pci, ret := b.calls.GetPciInfo(); ret == nvml.SUCCESS {
		id.PCI = text(pci.BusId[:])
	}
	return id, nil
}

func (b board) Busy() (float64, error) {
	u, ret := b.calls.GetUtilizationRates()
	return float64(u.Gpu) / 100, ErrorOf("nvmlDeviceGetUtilizationRates", int(ret))
}

// Memory asks the newer call first; the older one counts reserved memory as
// used.
func (b board) Memory() (gpu.Memory, error) {
	if m, ret := b.calls.GetMemoryInfo_v2(); ret == nvml.SUCCESS {
		return gpu.Memory{Used: m.Used, Total: m.Total, Reserved: &m.Reserved}, nil
	}
	m, ret := b.calls.GetMemoryInfo()
	return gpu.Memory{Used: m.Used, Total: m.Total}, ErrorOf("nvmlDeviceGetMemoryInfo", int(ret))
}

func (b board) Power() (watts float64, err error) {
	mw, ret := b.calls.GetPowerUsage()
	return float64(mw) / 1000, ErrorOf("nvmlDeviceGetPowerUsage", int(ret))
}

// Temperature asks the newer call first.
func (b board) Temperature() (celsius float64, err error) {
	if t, ret := b.calls.GetTemperatureV1(); ret == nvml.SUCCESS {
		return float64(t.Temperature), nil
	}
	t, ret := b.calls.GetTemperature(nvml.TEMPERATURE_GPU)
	return float64(t), ErrorOf("nvmlDeviceGetTemperature", int(ret))
}

func (b board) Processes() ([]gpu.Process, error) {
	infos, ret := b.calls.GetComputeRunningProcesses()
	if ret != nvml.SUCCESS {
		return nil, ErrorOf("nvmlDeviceGetComputeRunningProcesses", int(ret))
	}
	processes := make([]gpu.Process, len(infos))
	for i, info := range infos {
		processes[i].PID = int(info.Pid)
		if info.UsedGpuMemory != math.MaxUint64 { // NVML_VALUE_NOT_AVAILABLE
			processes[i].Memory = &infos[i].UsedGpuMemory
		}
	}
	return processes, nil
}

// text is a C string in a buffer.
func text(buffer []int8) string {
	var b strings.Builder
	for _, c := range buffer {
		if c == 0 {
			break
		}
		b.WriteByte(byte(c))
	}
	return b.String()
}
