//go:build cgo && linux

package nvml

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/gpupool/gpupool/agent/gpu"
	"github.com/gpupool/gpupool/agent/gpu/gputest"
	"github.com/gpupool/gpupool/agent/nvmltest"
)

// probeEnv makes the test binary a program that loads the library it names,
// makes every call and prints what came back. One process can load one
// library only, and a missing symbol ends the process.
const probeEnv = "GPUPOOL_NVML_PROBE"

func TestMain(m *testing.M) {
	if path := os.Getenv(probeEnv); path != "" {
		json.NewEncoder(os.Stdout).Encode(probe(path))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// probe is the error of every call by its name, empty for success.
func probe(path string) map[string]string {
	errs := map[string]string{}
	note := func(call string, err error) {
		errs[call] = ""
		if err != nil {
			errs[call] = err.Error()
		}
	}
	l := New(path)
	note("Init", l.Init())
	if errs["Init"] != "" {
		return errs
	}
	_, err := l.Version()
	note("Version", err)
	_, err = l.Count()
	note("Count", err)
	d, err := l.Open(0)
	note("Open", err)
	if err == nil {
		id, err := d.Identity()
		note("Identity", err)
		if id.Name == "" {
			errs["Name"] = "absent"
		}
		if id.PCI == "" {
			errs["PCI"] = "absent"
		}
		note("Watch", d.Watch())
		for q, name := range quantityNames {
			_, err := d.Number(gpu.Quantity(q))
			note(name, err)
		}
		samples, err := d.BusySamples(0)
		note("BusySamples", err)
		if err == nil && len(samples) == 0 {
			errs["BusySamples"] = "none"
		}
		m, err := d.Memory()
		note("Memory", err)
		if m.Reserved == nil {
			errs["Reserved"] = "absent"
		}
		p, err := d.Processes()
		note("Processes", err)
		if err == nil && len(p) != 4 {
			errs["MPSProcesses"] = "absent"
		}
		for _, instance := range []int{gpu.WholeGPU, 7} {
			name := map[bool]string{true: "Activity", false: "InstanceActivity"}[instance == gpu.WholeGPU]
			_, _, err := d.Activity(instance)
			note(name, err)
			if err == nil {
				time.Sleep(leastSpan)
				_, ok, err := d.Activity(instance)
				note(name, err)
				if err == nil && !ok {
					errs[name] = "none"
				}
			}
		}
		ecc, err := d.ECC()
		note("ECC", err)
		if err == nil && ecc.Uncorrected == nil {
			errs["ECCErrors"] = "absent"
		}
		_, err = d.Rows()
		note("Rows", err)
		pages, err := d.Pages()
		note("Pages", err)
		if err == nil && pages.DoubleBit == nil {
			errs["RetiredPages"] = "absent"
		}
		fabric, err := d.Fabric()
		note("Fabric", err)
		if err == nil && fabric.Health == 0 {
			errs["FabricHealth"] = "absent"
		}
		links, err := d.NVLink()
		note("NVLink", err)
		if err == nil && links.Errors == nil {
			errs["NVLinkErrors"] = "absent"
		}
		mig, err := d.MIG()
		note("MIG", err)
		if err == nil && mig.Enabled {
			_, err = d.PartMemory(mig.Parts[0].UUID)
			note("PartMemory", err)
		}
		d.Close()
	}
	if errs["Watch"] == "" {
		_, _, err := l.Wait(time.Millisecond)
		note("Wait", err)
	}
	note("Shutdown", l.Shutdown())
	return errs
}

// quantityNames name the numbers in order.
var quantityNames = [gpu.Quantities]string{
	gpu.Busy: "Busy", gpu.Power: "Power", gpu.PowerLimit: "PowerLimit", gpu.Energy: "Energy", gpu.Temperature: "Temperature",
	gpu.MemoryTemperature: "MemoryTemperature", gpu.SMClock: "SMClock", gpu.MemoryClock: "MemoryClock", gpu.Throttling: "Throttling",
	gpu.Persistence: "Persistence", gpu.PCIeReplays: "PCIeReplays", gpu.RecoveryAction: "RecoveryAction",
}

// runProbe probes a library in another process, and answers what it says of
// the calls that failed.
func runProbe(t *testing.T, library, state string) (failed map[string]string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), probeEnv+"="+library, nvmltest.FileEnv+"="+state)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("probe of %s: %v\n%s", library, err, out)
	}
	if err := json.Unmarshal(out, &failed); err != nil {
		t.Fatalf("probe of %s: %v\n%s", library, err, out)
	}
	for call, why := range failed {
		if why == "" {
			delete(failed, call)
		}
	}
	return failed
}

func stateFile(t *testing.T, s nvmltest.State) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state")
	if err := s.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDriver(t *testing.T) {
	path := stateFile(t, nvmltest.State{})
	t.Setenv(nvmltest.FileEnv, path)
	gputest.TestDriver(t, New(nvmltest.Build(t)), func(s nvmltest.State) {
		t.Helper()
		var err error
		if s == nil {
			err = os.Remove(path)
		} else {
			err = s.WriteFile(path)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestMissingLibrary(t *testing.T) {
	for _, path := range []string{filepath.Join(t.TempDir(), "libnvidia-ml.so.1"), "libnvidia-ml-of-no-host.so.1"} {
		err := New(path).Init()
		var coded interface{ Code() int }
		if err == nil || !errors.As(err, &coded) || coded.Code() != libraryNotFound {
			t.Fatalf("Init = %v, want code %d", err, libraryNotFound)
		}
		for _, want := range []string{path, "No such file", "-nvml"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("Init = %q, want it to say %q", err, want)
			}
		}
	}
}

func TestAnotherLibrary(t *testing.T) {
	failed := runProbe(t, "libc.so.6", "")
	if !strings.Contains(failed["Init"], "another library") {
		t.Errorf("Init with libc = %q, want it to say that it is another library", failed["Init"])
	}
}

// everything is a GPU that has all that the agent asks for.
var everything = nvmltest.State{"count": "1", "gpu0.procs": "1:1 2:2 3:3", "gpu0.mps_procs": "2:2 4:4", "gpu0.mem_temp": "60", "gpu0.pages": "1 2 0",
	"gpu0.fabric": "3 0 1", "gpu0.nvlinks": "18 18 0", "gpu0.mig": "1", "gpu0.mig.0": "MIG-1 7 0 1g.10gb 1 1"}

// TestOldDriver: a driver of years ago has little, and that little works.
func TestOldDriver(t *testing.T) {
	failed := runProbe(t, nvmltest.Lacking(t)(nvmltest.OldDriver...), stateFile(t, everything))
	var got []string
	for call := range failed {
		got = append(got, call)
	}
	slices.Sort(got)
	want := []string{"Activity", "Fabric", "InstanceActivity", "MIG", "MPSProcesses", "Reserved", "Rows"}
	if !slices.Equal(got, want) {
		t.Errorf("calls that fail: %v, want %v", failed, want)
	}
}

// TestMissingSymbols leaves each function out of the library in turn. The
// process must live, and only what needs the function may fail.
func TestMissingSymbols(t *testing.T) {
	state := stateFile(t, everything)
	if failed := runProbe(t, nvmltest.Build(t), state); len(failed) > 0 {
		t.Fatalf("calls that fail with all symbols: %v", failed)
	}
	lacking := nvmltest.Lacking(t)
	const process3, process2 = "nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2"
	const mps = "nvmlDeviceGetMPSComputeRunningProcesses"
	for _, tt := range []struct {
		without []string
		fail    []string
	}{
		{[]string{"nvmlInit_v2"}, []string{"Init"}},
		{[]string{"nvmlShutdown"}, []string{"Init"}},
		{[]string{"nvmlErrorString"}, nil},
		{[]string{"nvmlSystemGetDriverVersion"}, []string{"Version"}},
		{[]string{"nvmlDeviceGetCount_v2"}, []string{"Count"}},
		{[]string{"nvmlDeviceGetHandleByIndex_v2"}, []string{"Open"}},
		{[]string{"nvmlEventSetCreate"}, []string{"Watch"}},
		{[]string{"nvmlEventSetFree"}, nil},
		{[]string{"nvmlEventSetWait_v2"}, nil},
		{[]string{"nvmlEventSetWait_v2", "nvmlEventSetWait"}, []string{"Wait"}},
		{[]string{"nvmlDeviceGetUUID"}, []string{"Identity", "MIG", "Name", "PCI"}},
		{[]string{"nvmlDeviceGetName"}, []string{"Name"}},
		{[]string{"nvmlDeviceGetIndex"}, nil},
		{[]string{"nvmlDeviceGetPciInfo_v3"}, []string{"PCI"}},
		{[]string{"nvmlDeviceGetUtilizationRates"}, []string{"Busy"}},
		{[]string{"nvmlDeviceGetSamples"}, []string{"BusySamples"}},
		{[]string{"nvmlDeviceGetMemoryInfo_v2"}, []string{"Reserved"}},
		{[]string{"nvmlDeviceGetMemoryInfo"}, nil},
		{[]string{"nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMemoryInfo_v2"}, []string{"Memory", "PartMemory", "Reserved"}},
		{[]string{"nvmlDeviceGetPowerUsage"}, []string{"Power"}},
		{[]string{"nvmlDeviceGetEnforcedPowerLimit"}, []string{"PowerLimit"}},
		{[]string{"nvmlDeviceGetTotalEnergyConsumption"}, []string{"Energy"}},
		{[]string{"nvmlDeviceGetTemperature"}, nil},
		{[]string{"nvmlDeviceGetTemperatureV"}, nil},
		{[]string{"nvmlDeviceGetTemperature", "nvmlDeviceGetTemperatureV"}, []string{"Temperature"}},
		{[]string{"nvmlDeviceGetClockInfo"}, []string{"MemoryClock", "SMClock"}},
		{[]string{"nvmlDeviceGetCurrentClocksEventReasons"}, nil},
		{[]string{"nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"}, []string{"Throttling"}},
		{[]string{"nvmlDeviceGetPersistenceMode"}, []string{"Persistence"}},
		{[]string{"nvmlDeviceGetPcieReplayCounter"}, []string{"PCIeReplays"}},
		{[]string{"nvmlDeviceGetFieldValues"}, []string{"MemoryTemperature", "NVLinkErrors", "RecoveryAction"}},
		{[]string{"nvmlDeviceGetEccMode"}, []string{"ECC"}},
		{[]string{"nvmlDeviceGetTotalEccErrors"}, []string{"ECCErrors"}},
		{[]string{"nvmlDeviceGetRemappedRows"}, []string{"Rows"}},
		{[]string{"nvmlDeviceGetRetiredPagesPendingStatus"}, []string{"Pages"}},
		{[]string{"nvmlDeviceGetRetiredPages"}, []string{"RetiredPages"}},
		{[]string{"nvmlDeviceGetGpuFabricInfoV"}, []string{"FabricHealth"}},
		{[]string{"nvmlDeviceGetGpuFabricInfo"}, nil},
		{[]string{"nvmlDeviceGetGpuFabricInfo", "nvmlDeviceGetGpuFabricInfoV"}, []string{"Fabric"}},
		{[]string{"nvmlDeviceGetNvLinkState"}, []string{"NVLink"}},
		{[]string{"nvmlDeviceGetSupportedEventTypes"}, []string{"Watch"}},
		{[]string{"nvmlDeviceRegisterEvents"}, []string{"Watch"}},
		{[]string{"nvmlGpmQueryDeviceSupport"}, []string{"Activity", "InstanceActivity"}},
		{[]string{"nvmlGpmSampleAlloc"}, []string{"Activity", "InstanceActivity"}},
		{[]string{"nvmlGpmSampleFree"}, nil},
		{[]string{"nvmlGpmSampleGet"}, []string{"Activity"}},
		{[]string{"nvmlGpmMigSampleGet"}, []string{"InstanceActivity"}},
		{[]string{"nvmlGpmMetricsGet"}, []string{"Activity", "InstanceActivity"}},
		{[]string{"nvmlDeviceGetMigMode"}, []string{"MIG"}},
		{[]string{"nvmlDeviceGetMaxMigDeviceCount"}, []string{"MIG"}},
		{[]string{"nvmlDeviceGetMigDeviceHandleByIndex"}, []string{"MIG"}},
		{[]string{"nvmlDeviceGetGpuInstanceId"}, []string{"MIG"}},
		{[]string{"nvmlDeviceGetComputeInstanceId"}, []string{"MIG"}},
		{[]string{process3}, nil},
		{[]string{process3, process2}, nil},
		{[]string{process3, process2, "nvmlDeviceGetComputeRunningProcesses"}, []string{"Processes"}},
		{[]string{mps + "_v3", mps + "_v2", mps}, []string{"MPSProcesses"}},
	} {
		t.Run(strings.Join(tt.without, "+"), func(t *testing.T) {
			t.Parallel()
			failed := runProbe(t, lacking(tt.without...), state)
			var got []string
			for call := range failed {
				got = append(got, call)
			}
			slices.Sort(got)
			if !slices.Equal(got, tt.fail) {
				t.Errorf("calls that fail: %v, want %v", failed, tt.fail)
			}
		})
	}
	t.Run("first version of Init", func(t *testing.T) {
		library := nvmltest.Build(t, nvmltest.Rename("nvmlInit_v2", "nvmlInit"))
		if failed := runProbe(t, library, state); len(failed) > 0 {
			t.Errorf("calls that fail: %v", failed)
		}
	})
}

// TestEveryCallIsGuarded makes every call with no symbol available, upon a
// library that panics when it is reached.
func TestEveryCallIsGuarded(t *testing.T) {
	for _, tt := range []struct {
		guard any
		calls reflect.Type
	}{
		{guarded{system: struct{ system }{}}, reflect.TypeFor[system]()},
		{guardedDevice{device: struct{ device }{}}, reflect.TypeFor[device]()},
	} {
		for i := range tt.calls.NumMethod() {
			name := tt.calls.Method(i).Name
			t.Run(name, func(t *testing.T) {
				if len(symbols[name]) == 0 {
					t.Error("has no entry in symbols")
				}
				defer func() {
					if p := recover(); p != nil {
						t.Errorf("went on without its symbol: %v", p)
					}
				}()
				method := reflect.ValueOf(tt.guard).MethodByName(name)
				var args []reflect.Value
				for j := range method.Type().NumIn() {
					args = append(args, reflect.Zero(method.Type().In(j)))
				}
				results := method.Call(args)
				if ret := results[len(results)-1].Interface(); ret != nvml.ERROR_FUNCTION_NOT_FOUND {
					t.Errorf("returned %v, want function not found", ret)
				}
			})
		}
	}
}

// TestNoFields: go-nvml panics where it is asked for none.
func TestNoFields(t *testing.T) {
	g := guardedDevice{device: struct{ device }{}, available: available{"GetFieldValues": true}}
	if ret := g.GetFieldValues(nil); ret != nvml.SUCCESS {
		t.Errorf("GetFieldValues of none = %v", ret)
	}
}

// TestSlowCallsAreNotMade: these measure or wait inside the driver.
func TestSlowCallsAreNotMade(t *testing.T) {
	for _, call := range []string{"GetPcieThroughput", "GetProcessUtilization", "GetProcessesUtilizationInfo"} {
		if _, ok := reflect.TypeFor[device]().MethodByName(call); ok {
			t.Errorf("%s is among the calls that the agent makes", call)
		}
	}
}

func TestDecode(t *testing.T) {
	bytes := func(low byte) [8]byte { return [8]byte{low, 0xff, 0xff, 0xff} }
	for _, tt := range []struct {
		kind nvml.ValueType
		in   [8]byte
		want float64
		ok   bool
	}{
		{nvml.VALUE_TYPE_UNSIGNED_INT, bytes(0xfe), 4294967294, true},
		{nvml.VALUE_TYPE_SIGNED_INT, bytes(0xfe), -2, true},
		{nvml.VALUE_TYPE_UNSIGNED_LONG_LONG, bytes(0xfe), 4294967294, true},
		{nvml.VALUE_TYPE_SIGNED_LONG_LONG, [8]byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, -2, true},
		{nvml.VALUE_TYPE_UNSIGNED_SHORT, bytes(0xfe), 65534, true},
		{nvml.VALUE_TYPE_DOUBLE, [8]byte{6: 0xf0, 7: 0x3f}, 1, true},
		{nvml.VALUE_TYPE_DOUBLE, [8]byte{6: 0xf8, 7: 0x7f}, 0, false}, // not a number
		{99, bytes(1), 0, false},
	} {
		if got, ok := decode(tt.kind, tt.in); ok != tt.ok || ok && got != tt.want {
			t.Errorf("decode(%d, %x) = %g, %t, want %g, %t", tt.kind, tt.in, got, ok, tt.want, tt.ok)
		}
	}
}

// TestSymbolsHaveACall keeps the table free of names that nothing looks at.
func TestSymbolsHaveACall(t *testing.T) {
	for name := range symbols {
		_, a := reflect.TypeFor[system]().MethodByName(name)
		_, b := reflect.TypeFor[device]().MethodByName(name)
		if !a && !b {
			t.Errorf("symbols has %s, which is no call", name)
		}
	}
}

// TestReplaced does what a driver's upgrade does under a running agent: the
// library's file is another one, and the kernel refuses the old one.
func TestReplaced(t *testing.T) {
	library := nvmltest.Build(t)
	l := &Library{path: library}
	l.file, l.info = mapped(library)
	if l.replaced() {
		t.Error("replaced before it was")
	}
	if err := os.Rename(nvmltest.Build(t), library); err != nil {
		t.Fatal(err)
	}
	if !l.replaced() {
		t.Error("not replaced after it was")
	}
	if err := os.Remove(library); err != nil {
		t.Fatal(err)
	}
	if l.replaced() {
		t.Error("replaced by nothing: the upgrade is not over")
	}
}

func TestMappedByName(t *testing.T) {
	file, info := mapped("libc.so.6")
	if info == nil || filepath.Base(file) != "libc.so.6" {
		t.Errorf("mapped(libc.so.6) = %q, want the file that this process runs on", file)
	}
}

// TestLayout holds the fake library's structures against go-nvml's.
func TestLayout(t *testing.T) {
	fields := map[string]map[string]string{
		"pci_info": {"bus_id_legacy": "BusIdLegacy", "domain": "Domain", "bus": "Bus", "device": "Device",
			"pci_device_id": "PciDeviceId", "pci_subsystem_id": "PciSubSystemId", "bus_id": "BusId"},
		"utilization": {"gpu": "Gpu", "memory": "Memory"},
		"memory":      {"total": "Total", "free": "Free", "used": "Used"},
		"memory_v2":   {"version": "Version", "total": "Total", "reserved": "Reserved", "free": "Free", "used": "Used"},
		"process_v1":  {"pid": "Pid", "used": "UsedGpuMemory"},
		"process": {"pid": "Pid", "used": "UsedGpuMemory", "gpu_instance": "GpuInstanceId",
			"compute_instance": "ComputeInstanceId"},
		"temperature": {"version": "Version", "sensor": "SensorType", "temperature": "Temperature"},
		"sample":      {"at": "TimeStamp", "value": "SampleValue"},
		"field_value": {"field": "FieldId", "scope": "ScopeId", "at": "Timestamp", "latency": "LatencyUsec", "type": "ValueType",
			"result": "NvmlReturn", "value": "Value"},
		"event_data": {"device": "Device", "type": "EventType", "data": "EventData", "gpu_instance": "GpuInstanceId",
			"compute_instance": "ComputeInstanceId"},
		"fabric":      {"cluster": "ClusterUuid", "status": "Status", "clique": "CliqueId", "state": "State"},
		"fabric_v2":   {"version": "Version", "cluster": "ClusterUuid", "status": "Status", "clique": "CliqueId", "state": "State", "health_mask": "HealthMask"},
		"fabric_v3":   {"version": "Version", "cluster": "ClusterUuid", "status": "Status", "clique": "CliqueId", "state": "State", "health_mask": "HealthMask", "health": "HealthSummary"},
		"gpm_support": {"version": "Version", "supported": "IsSupportedDevice"},
		"gpm_metric":  {"id": "MetricId", "result": "NvmlReturn", "value": "Value", "info": "MetricInfo"},
		"gpm_metrics": {"version": "Version", "count": "NumMetrics", "first": "Sample1", "second": "Sample2", "metrics": "Metrics"},
	}
	want := map[string]uintptr{}
	for name, goType := range map[string]reflect.Type{
		"pci_info":    reflect.TypeFor[nvml.PciInfo](),
		"utilization": reflect.TypeFor[nvml.Utilization](),
		"memory":      reflect.TypeFor[nvml.Memory](),
		"memory_v2":   reflect.TypeFor[nvml.Memory_v2](),
		"process_v1":  reflect.TypeFor[nvml.ProcessInfo_v1](),
		"process":     reflect.TypeFor[nvml.ProcessInfo](),
		"temperature": reflect.TypeFor[nvml.Temperature](),
		"sample":      reflect.TypeFor[nvml.Sample](),
		"field_value": reflect.TypeFor[nvml.FieldValue](),
		"event_data":  pointers(reflect.TypeFor[nvml.EventData]()),
		"fabric":      reflect.TypeFor[nvml.GpuFabricInfo](),
		"fabric_v2":   reflect.TypeFor[nvml.GpuFabricInfo_v2](),
		"fabric_v3":   reflect.TypeFor[nvml.GpuFabricInfo_v3](),
		"gpm_support": reflect.TypeFor[nvml.GpmSupport](),
		"gpm_metric":  reflect.TypeFor[nvml.GpmMetric](),
		"gpm_metrics": pointers(reflect.TypeFor[nvml.GpmMetricsGetType]()),
	} {
		want[name] = goType.Size()
		if n := named(goType); n != len(fields[name]) {
			t.Errorf("%s has %d fields, want %d", name, len(fields[name]), n)
		}
		for c, g := range fields[name] {
			field, ok := goType.FieldByName(g)
			if !ok {
				t.Fatalf("%v has no field %s", goType, g)
			}
			want[name+"."+c] = field.Offset
		}
	}
	got := map[string]uintptr{}
	for line := range strings.Lines(nvmltest.Layout(t)) {
		var name string
		var n uintptr
		if _, err := fmt.Sscan(line, &name, &n); err != nil {
			t.Fatalf("layout line %q: %v", line, err)
		}
		got[name] = n
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("layout of the fake library\n%v\nwant go-nvml's\n%v", got, want)
	}
	if unsafe.Sizeof(nvml.ProcessInfo_v2{}) != want["process"] {
		t.Error("the second version of a process differs from the third")
	}
}

// named is how many fields of a structure are more than padding.
func named(goType reflect.Type) (n int) {
	for i := range goType.NumField() {
		if !strings.HasPrefix(goType.Field(i).Name, "Pad_cgo") {
			n++
		}
	}
	return n
}

// pointers is a structure as go-nvml hands it to the library. Of some it only
// exports a form that has interfaces in place of pointers.
func pointers(goType reflect.Type) reflect.Type {
	fields := make([]reflect.StructField, goType.NumField())
	for i := range fields {
		f := goType.Field(i)
		if f.Type.Kind() == reflect.Interface {
			f.Type = reflect.TypeFor[uintptr]()
		}
		fields[i] = reflect.StructField{Name: f.Name, Type: f.Type}
	}
	return reflect.StructOf(fields)
}

func TestErrorOf(t *testing.T) {
	if ErrorOf("nvmlInit", 0) != nil {
		t.Error("success is an error")
	}
	err := ErrorOf("nvmlDeviceGetPowerUsage", gpuIsLost)
	if !errors.Is(err, gpu.ErrLost) || err.Error() != "nvmlDeviceGetPowerUsage: the GPU fell off the bus or is otherwise inaccessible (NVML 15)" {
		t.Errorf("lost: %v", err)
	}
	if err := ErrorOf("nvmlInit", 12345); !strings.Contains(err.Error(), "12345") {
		t.Errorf("a code of the future: %v, want the number", err)
	}
}
