//go:build cgo && linux

package nvml

import "github.com/NVIDIA/go-nvml/pkg/nvml"

// system and device are the calls of go-nvml that the agent makes, and no
// others.
type system interface {
	Init() nvml.Return
	Shutdown() nvml.Return
	SystemGetDriverVersion() (string, nvml.Return)
	DeviceGetCount() (int, nvml.Return)
	DeviceGetHandleByIndex(int) (nvml.Device, nvml.Return)
}

type device interface {
	GetUUID() (string, nvml.Return)
	GetName() (string, nvml.Return)
	GetPciInfo() (nvml.PciInfo, nvml.Return)
	GetUtilizationRates() (nvml.Utilization, nvml.Return)
	GetMemoryInfo() (nvml.Memory, nvml.Return)
	GetMemoryInfo_v2() (nvml.Memory_v2, nvml.Return)
	GetPowerUsage() (uint32, nvml.Return)
	GetTemperature(nvml.TemperatureSensors) (uint32, nvml.Return)
	GetTemperatureV1() (nvml.Temperature, nvml.Return)
	GetComputeRunningProcesses() ([]nvml.ProcessInfo, nvml.Return)
}

// flat is a go-nvml device without handlers: each of the calls that we make
// is one method.
type flat struct{ nvml.Device }

func (d flat) GetTemperatureV1() (nvml.Temperature, nvml.Return) { return d.GetTemperatureV().V1() }

// symbols are the functions of the library behind each call. One of them is
// enough: go-nvml picks the newest that is there. Calling a function that the
// library lacks ends the process without a panic (the dynamic linker exits
// with status 127), so each call of guarded and guardedDevice looks here
// first. The tests keep the three in step.
var symbols = map[string][]string{
	"Init":                   {"nvmlInit_v2", "nvmlInit"},
	"Shutdown":               {"nvmlShutdown"},
	"SystemGetDriverVersion": {"nvmlSystemGetDriverVersion"},
	"DeviceGetCount":         {"nvmlDeviceGetCount_v2", "nvmlDeviceGetCount"},
	"DeviceGetHandleByIndex": {"nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetHandleByIndex"},

	"GetUUID":             {"nvmlDeviceGetUUID"},
	"GetName":             {"nvmlDeviceGetName"},
	"GetPciInfo":          {"nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetPciInfo_v2", "nvmlDeviceGetPciInfo"},
	"GetUtilizationRates": {"nvmlDeviceGetUtilizationRates"},
	"GetMemoryInfo":       {"nvmlDeviceGetMemoryInfo"},
	"GetMemoryInfo_v2":    {"nvmlDeviceGetMemoryInfo_v2"},
	"GetPowerUsage":       {"nvmlDeviceGetPowerUsage"},
	"GetTemperature":      {"nvmlDeviceGetTemperature"},
	"GetTemperatureV1":    {"nvmlDeviceGetTemperatureV"},
	"GetComputeRunningProcesses": {"nvmlDeviceGetComputeRunningProcesses_v3",
		"nvmlDeviceGetComputeRunningProcesses_v2", "nvmlDeviceGetComputeRunningProcesses"},
}

// available are the names of the calls that can be made.
type available map[string]bool

// find looks up the symbols of every call.
func find(lookup func(symbol string) error) available {
	a := available{}
	for call, names := range symbols {
		for _, name := range names {
			if lookup(name) == nil {
				a[call] = true
				break
			}
		}
	}
	return a
}

// call makes a call if it can be made.
func call[T any](a available, name string, f func() (T, nvml.Return)) (T, nvml.Return) {
	if !a[name] {
		var none T
		return none, nvml.ERROR_FUNCTION_NOT_FOUND
	}
	return f()
}

// guarded makes only the calls that are available.
type guarded struct {
	system
	available
}

func (g guarded) Init() nvml.Return {
	if !g.available["Init"] {
		return nvml.ERROR_FUNCTION_NOT_FOUND
	}
	return g.system.Init()
}

func (g guarded) Shutdown() nvml.Return {
	if !g.available["Shutdown"] {
		return nvml.ERROR_FUNCTION_NOT_FOUND
	}
	return g.system.Shutdown()
}

func (g guarded) SystemGetDriverVersion() (string, nvml.Return) {
	return call(g.available, "SystemGetDriverVersion", g.system.SystemGetDriverVersion)
}

func (g guarded) DeviceGetCount() (int, nvml.Return) {
	return call(g.available, "DeviceGetCount", g.system.DeviceGetCount)
}

func (g guarded) DeviceGetHandleByIndex(i int) (nvml.Device, nvml.Return) {
	return call(g.available, "DeviceGetHandleByIndex", func() (nvml.Device, nvml.Return) {
		return g.system.DeviceGetHandleByIndex(i)
	})
}

// guardedDevice makes only the calls that are available.
type guardedDevice struct {
	device
	available
}

func (g guardedDevice) GetUUID() (string, nvml.Return) {
	return call(g.available, "GetUUID", g.device.GetUUID)
}

func (g guardedDevice) GetName() (string, nvml.Return) {
	return call(g.available, "GetName", g.device.GetName)
}

func (g guardedDevice) GetPciInfo() (nvml.PciInfo, nvml.Return) {
	return call(g.available, "GetPciInfo", g.device.GetPciInfo)
}

func (g guardedDevice) GetUtilizationRates() (nvml.Utilization, nvml.Return) {
	return call(g.available, "GetUtilizationRates", g.device.GetUtilizationRates)
}

func (g guardedDevice) GetMemoryInfo() (nvml.Memory, nvml.Return) {
	return call(g.available, "GetMemoryInfo", g.device.GetMemoryInfo)
}

func (g guardedDevice) GetMemoryInfo_v2() (nvml.Memory_v2, nvml.Return) { //nolint:revive // go-nvml's name
	return call(g.available, "GetMemoryInfo_v2", g.device.GetMemoryInfo_v2)
}

func (g guardedDevice) GetPowerUsage() (uint32, nvml.Return) {
	return call(g.available, "GetPowerUsage", g.device.GetPowerUsage)
}

func (g guardedDevice) GetTemperature(s nvml.TemperatureSensors) (uint32, nvml.Return) {
	return call(g.available, "GetTemperature", func() (uint32, nvml.Return) { return g.device.GetTemperature(s) })
}

func (g guardedDevice) GetTemperatureV1() (nvml.Temperature, nvml.Return) {
	return call(g.available, "GetTemperatureV1", g.device.GetTemperatureV1)
}

func (g guardedDevice) GetComputeRunningProcesses() ([]nvml.ProcessInfo, nvml.Return) {
	return call(g.available, "GetComputeRunningProcesses", g.device.GetComputeRunningProcesses)
}
