//go:build cgo && linux

package nvml

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

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

	events    nvml.EventSet // of the GPUs that are watched, since Init
	eventsErr error         // why there is none

	mu   sync.Mutex          // never held over a call
	gpus map[nvml.Device]int // the index of every GPU that was opened since Init
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
	if ret == nvml.SUCCESS {
		l.gpus = map[nvml.Device]int{}
		l.events, ret = l.calls.EventSetCreate()
		l.eventsErr = ErrorOf("nvmlEventSetCreate", int(ret))
		return nil
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
func (l *Library) Shutdown() error {
	if l.events != nil && l.eventsErr == nil {
		_ = l.calls.EventSetFree(l.events) // goes with the library anyway
	}
	l.events = nil
	return ErrorOf("nvmlShutdown", int(l.calls.Shutdown()))
}

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
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gpus[d] = index
	return &board{
		library:  l,
		calls:    guardedDevice{flat{d}, l.calls.available},
		parts:    map[string]guardedDevice{},
		monitors: map[int]*monitor{},
	}, nil
}

// Wait waits for an event in NVML, which blocks a thread for so long.
func (l *Library) Wait(patience time.Duration) (gpu.Event, bool, error) {
	if l.eventsErr != nil {
		return gpu.Event{}, false, l.eventsErr
	}
	data, ret := l.calls.EventSetWait(l.events, uint32(patience.Milliseconds()))
	switch ret {
	case nvml.ERROR_TIMEOUT:
		return gpu.Event{}, false, nil
	case nvml.SUCCESS:
	default:
		return gpu.Event{}, false, ErrorOf("nvmlEventSetWait", int(ret))
	}
	event := gpu.Event{Index: l.index(data.Device)}
	if data.EventType == nvml.EventTypeXidCriticalError {
		event.XID = int(data.EventData)
	}
	return event, true, nil
}

// index is that of an event's GPU. NVML gives the handle that it gave before;
// should it not, it is asked.
func (l *Library) index(d nvml.Device) int {
	l.mu.Lock()
	index, known := l.gpus[d]
	l.mu.Unlock()
	if known {
		return index
	}
	index, ret := guardedDevice{flat{d}, l.calls.available}.GetIndex()
	if ret != nvml.SUCCESS {
		return -1
	}
	return index
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
