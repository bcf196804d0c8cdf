//go:build cgo && linux

package nvml

import "github.com/NVIDIA/go-nvml/pkg/nvml"

// system and device are the calls of go-nvml that the agent makes, and no
// others. Not among them are those that are known to take long:
// GetPcieThroughput measures for 20 ms at each call.
type system interface {
	Init() nvml.Return
	Shutdown() nvml.Return
	SystemGetDriverVersion() (string, nvml.Return)
	DeviceGetCount() (int, nvml.Return)
	DeviceGetHandleByIndex(int) (nvml.Device, nvml.Return)
	EventSetCreate() (nvml.EventSet, nvml.Return)
	EventSetWait(nvml.EventSet, uint32) (nvml.EventData, nvml.Return)
	EventSetFree(nvml.EventSet) nvml.Return
	GpmSampleAlloc() (nvml.GpmSample, nvml.Return)
	GpmSampleFree(nvml.GpmSample) nvml.Return
	GpmMetricsGet(*nvml.GpmMetricsGetType) nvml.Return
}

type device interface {
	GetUUID() (string, nvml.Return)
	GetName() (string, nvml.Return)
	GetIndex() (int, nvml.Return)
	GetPciInfo() (nvml.PciInfo, nvml.Return)
	GetUtilizationRates() (nvml.Utilization, nvml.Return)
	GetSamples(nvml.SamplingType, uint64) (nvml.ValueType, []nvml.Sample, nvml.Return)
	GetMemoryInfo() (nvml.Memory, nvml.Return)
	GetMemoryInfo_v2() (nvml.Memory_v2, nvml.Return)
	GetPowerUsage() (uint32, nvml.Return)
	GetEnforcedPowerLimit() (uint32, nvml.Return)
	GetTotalEnergyConsumption() (uint64, nvml.Return)
	GetTemperature(nvml.TemperatureSensors) (uint32, nvml.Return)
	GetTemperatureV1() (nvml.Temperature, nvml.Return)
	GetClockInfo(nvml.ClockType) (uint32, nvml.Return)
	GetCurrentClocksEventReasons() (uint64, nvml.Return)
	GetCurrentClocksThrottleReasons() (uint64, nvml.Return)
	GetPersistenceMode() (nvml.EnableState, nvml.Return)
	GetPcieReplayCounter() (int, nvml.Return)
	GetFieldValues([]nvml.FieldValue) nvml.Return
	GetEccMode() (nvml.EnableState, nvml.EnableState, nvml.Return)
	GetTotalEccErrors(nvml.MemoryErrorType, nvml.EccCounterType) (uint64, nvml.Return)
	GetRemappedRows() (int, int, bool, bool, nvml.Return)
	GetRetiredPages(nvml.PageRetirementCause) ([]uint64, nvml.Return)
	GetRetiredPagesPendingStatus() (nvml.EnableState, nvml.Return)
	GetGpuFabricInfo() (nvml.GpuFabricInfo, nvml.Return)
	GetGpuFabricInfoV2() (nvml.GpuFabricInfo_v2, nvml.Return)
	GetGpuFabricInfoV3() (nvml.GpuFabricInfo_v3, nvml.Return)
	GetNvLinkState(int) (nvml.EnableState, nvml.Return)
	GetComputeRunningProcesses() ([]nvml.ProcessInfo, nvml.Return)
	GetMPSComputeRunningProcesses() ([]nvml.ProcessInfo, nvml.Return)
	GetSupportedEventTypes() (uint64, nvml.Return)
	RegisterEvents(uint64, nvml.EventSet) nvml.Return
	GpmQueryDeviceSupport() (nvml.GpmSupport, nvml.Return)
	GpmSampleGet(nvml.GpmSample) nvml.Return
	GpmMigSampleGet(int, nvml.GpmSample) nvml.Return
	GetMigMode() (int, int, nvml.Return)
	GetMaxMigDeviceCount() (int, nvml.Return)
	GetMigDeviceHandleByIndex(int) (nvml.Device, nvml.Return)
	GetGpuInstanceId() (int, nvml.Return)
	GetComputeInstanceId() (int, nvml.Return)
}

// flat is a go-nvml device without handlers: each of the calls that we make
// is one method.
type flat struct{ nvml.Device }

func (d flat) GetTemperatureV1() (nvml.Temperature, nvml.Return) { return d.GetTemperatureV().V1() }

func (d flat) GetGpuFabricInfoV2() (nvml.GpuFabricInfo_v2, nvml.Return) {
	return d.GetGpuFabricInfoV().V2()
}

func (d flat) GetGpuFabricInfoV3() (nvml.GpuFabricInfo_v3, nvml.Return) {
	return d.GetGpuFabricInfoV().V3()
}

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
	"EventSetCreate":         {"nvmlEventSetCreate"},
	"EventSetWait":           {"nvmlEventSetWait_v2", "nvmlEventSetWait"},
	"EventSetFree":           {"nvmlEventSetFree"},
	"GpmSampleAlloc":         {"nvmlGpmSampleAlloc"},
	"GpmSampleFree":          {"nvmlGpmSampleFree"},
	"GpmMetricsGet":          {"nvmlGpmMetricsGet"},

	"GetUUID":                         {"nvmlDeviceGetUUID"},
	"GetName":                         {"nvmlDeviceGetName"},
	"GetIndex":                        {"nvmlDeviceGetIndex"},
	"GetPciInfo":                      {"nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetPciInfo_v2", "nvmlDeviceGetPciInfo"},
	"GetUtilizationRates":             {"nvmlDeviceGetUtilizationRates"},
	"GetSamples":                      {"nvmlDeviceGetSamples"},
	"GetMemoryInfo":                   {"nvmlDeviceGetMemoryInfo"},
	"GetMemoryInfo_v2":                {"nvmlDeviceGetMemoryInfo_v2"},
	"GetPowerUsage":                   {"nvmlDeviceGetPowerUsage"},
	"GetEnforcedPowerLimit":           {"nvmlDeviceGetEnforcedPowerLimit"},
	"GetTotalEnergyConsumption":       {"nvmlDeviceGetTotalEnergyConsumption"},
	"GetTemperature":                  {"nvmlDeviceGetTemperature"},
	"GetTemperatureV1":                {"nvmlDeviceGetTemperatureV"},
	"GetClockInfo":                    {"nvmlDeviceGetClockInfo"},
	"GetCurrentClocksEventReasons":    {"nvmlDeviceGetCurrentClocksEventReasons"},
	"GetCurrentClocksThrottleReasons": {"nvmlDeviceGetCurrentClocksThrottleReasons"},
	"GetPersistenceMode":              {"nvmlDeviceGetPersistenceMode"},
	"GetPcieReplayCounter":            {"nvmlDeviceGetPcieReplayCounter"},
	"GetFieldValues":                  {"nvmlDeviceGetFieldValues"},
	"GetEccMode":                      {"nvmlDeviceGetEccMode"},
	"GetTotalEccErrors":               {"nvmlDeviceGetTotalEccErrors"},
	"GetRemappedRows":                 {"nvmlDeviceGetRemappedRows"},
	"GetRetiredPages":                 {"nvmlDeviceGetRetiredPages"},
	"GetRetiredPagesPendingStatus":    {"nvmlDeviceGetRetiredPagesPendingStatus"},
	"GetGpuFabricInfo":                {"nvmlDeviceGetGpuFabricInfo"},
	"GetGpuFabricInfoV2":              {"nvmlDeviceGetGpuFabricInfoV"},
	"GetGpuFabricInfoV3":              {"nvmlDeviceGetGpuFabricInfoV"},
	"GetNvLinkState":                  {"nvmlDeviceGetNvLinkState"},
	"GetComputeRunningProcesses":      {"nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2", "nvmlDeviceGetComputeRunningProcesses"},
	"GetMPSComputeRunningProcesses":   {"nvmlDeviceGetMPSComputeRunningProcesses_v3", "nvmlDeviceGetMPSComputeRunningProcesses_v2", "nvmlDeviceGetMPSComputeRunningProcesses"},
	"GetSupportedEventTypes":          {"nvmlDeviceGetSupportedEventTypes"},
	"RegisterEvents":                  {"nvmlDeviceRegisterEvents"},
	"GpmQueryDeviceSupport":           {"nvmlGpmQueryDeviceSupport"},
	"GpmSampleGet":                    {"nvmlGpmSampleGet"},
	"GpmMigSampleGet":                 {"nvmlGpmMigSampleGet"},
	"GetMigMode":                      {"nvmlDeviceGetMigMode"},
	"GetMaxMigDeviceCount":            {"nvmlDeviceGetMaxMigDeviceCount"},
	"GetMigDeviceHandleByIndex":       {"nvmlDeviceGetMigDeviceHandleByIndex"},
	"GetGpuInstanceId":                {"nvmlDeviceGetGpuInstanceId"},
	"GetComputeInstanceId":            {"nvmlDeviceGetComputeInstanceId"},
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

// plain makes a call that answers nothing but whether it succeeded.
func plain(a available, name string, f func() nvml.Return) nvml.Return {
	if !a[name] {
		return nvml.ERROR_FUNCTION_NOT_FOUND
	}
	return f()
}

// guarded makes only the calls that are available.
type guarded struct {
	system
	available
}

func (g guarded) Init() nvml.Return { return plain(g.available, "Init", g.system.Init) }

func (g guarded) Shutdown() nvml.Return { return plain(g.available, "Shutdown", g.system.Shutdown) }

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

func (g guarded) EventSetCreate() (nvml.EventSet, nvml.Return) {
	return call(g.available, "EventSetCreate", g.system.EventSetCreate)
}

func (g guarded) EventSetWait(set nvml.EventSet, ms uint32) (nvml.EventData, nvml.Return) {
	return call(g.available, "EventSetWait", func() (nvml.EventData, nvml.Return) { return g.system.EventSetWait(set, ms) })
}

func (g guarded) EventSetFree(set nvml.EventSet) nvml.Return {
	return plain(g.available, "EventSetFree", func() nvml.Return { return g.system.EventSetFree(set) })
}

func (g guarded) GpmSampleAlloc() (nvml.GpmSample, nvml.Return) {
	return call(g.available, "GpmSampleAlloc", g.system.GpmSampleAlloc)
}

func (g guarded) GpmSampleFree(s nvml.GpmSample) nvml.Return {
	return plain(g.available, "GpmSampleFree", func() nvml.Return { return g.system.GpmSampleFree(s) })
}

func (g guarded) GpmMetricsGet(m *nvml.GpmMetricsGetType) nvml.Return {
	return plain(g.available, "GpmMetricsGet", func() nvml.Return { return g.system.GpmMetricsGet(m) })
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

func (g guardedDevice) GetIndex() (int, nvml.Return) {
	return call(g.available, "GetIndex", g.device.GetIndex)
}

func (g guardedDevice) GetPciInfo() (nvml.PciInfo, nvml.Return) {
	return call(g.available, "GetPciInfo", g.device.GetPciInfo)
}

func (g guardedDevice) GetUtilizationRates() (nvml.Utilization, nvml.Return) {
	return call(g.available, "GetUtilizationRates", g.device.GetUtilizationRates)
}

func (g guardedDevice) GetSamples(t nvml.SamplingType, since uint64) (nvml.ValueType, []nvml.Sample, nvml.Return) {
	if !g.available["GetSamples"] {
		return 0, nil, nvml.ERROR_FUNCTION_NOT_FOUND
	}
	return g.device.GetSamples(t, since)
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

func (g guardedDevice) GetEnforcedPowerLimit() (uint32, nvml.Return) {
	return call(g.available, "GetEnforcedPowerLimit", g.device.GetEnforcedPowerLimit)
}

func (g guardedDevice) GetTotalEnergyConsumption() (uint64, nvml.Return) {
	return call(g.available, "GetTotalEnergyConsumption", g.device.GetTotalEnergyConsumption)
}

func (g guardedDevice) GetTemperature(x nvml.TemperatureSensors) (uint32, nvml.Return) {
	return call(g.available, "GetTemperature", func() (uint32, nvml.Return) { return g.device.GetTemperature(x) })
}

func (g guardedDevice) GetTemperatureV1() (nvml.Temperature, nvml.Return) {
	return call(g.available, "GetTemperatureV1", g.device.GetTemperatureV1)
}

func (g guardedDevice) GetClockInfo(x nvml.ClockType) (uint32, nvml.Return) {
	return call(g.available, "GetClockInfo", func() (uint32, nvml.Return) { return g.device.GetClockInfo(x) })
}

func (g guardedDevice) GetCurrentClocksEventReasons() (uint64, nvml.Return) {
	return call(g.available, "GetCurrentClocksEventReasons", g.device.GetCurrentClocksEventReasons)
}

func (g guardedDevice) GetCurrentClocksThrottleReasons() (uint64, nvml.Return) {
	return call(g.available, "GetCurrentClocksThrottleReasons", g.device.GetCurrentClocksThrottleReasons)
}

func (g guardedDevice) GetPersistenceMode() (nvml.EnableState, nvml.Return) {
	return call(g.available, "GetPersistenceMode", g.device.GetPersistenceMode)
}

func (g guardedDevice) GetPcieReplayCounter() (int, nvml.Return) {
	return call(g.available, "GetPcieReplayCounter", g.device.GetPcieReplayCounter)
}

// GetFieldValues with no values would panic in go-nvml.
func (g guardedDevice) GetFieldValues(v []nvml.FieldValue) nvml.Return {
	return plain(g.available, "GetFieldValues", func() nvml.Return {
		if len(v) == 0 {
			return nvml.SUCCESS
		}
		return g.device.GetFieldValues(v)
	})
}

func (g guardedDevice) GetEccMode() (current, pending nvml.EnableState, ret nvml.Return) {
	if !g.available["GetEccMode"] {
		return 0, 0, nvml.ERROR_FUNCTION_NOT_FOUND
	}
	return g.device.GetEccMode()
}

func (g guardedDevice) GetTotalEccErrors(t nvml.MemoryErrorType, c nvml.EccCounterType) (uint64, nvml.Return) {
	return call(g.available, "GetTotalEccErrors", func() (uint64, nvml.Return) { return g.device.GetTotalEccErrors(t, c) })
}

func (g guardedDevice) GetRemappedRows() (corrected, uncorrected int, pending, failed bool, ret nvml.Return) {
	if !g.available["GetRemappedRows"] {
		return 0, 0, false, false, nvml.ERROR_FUNCTION_NOT_FOUND
	}
	return g.device.GetRemappedRows()
}

func (g guardedDevice) GetRetiredPages(x nvml.PageRetirementCause) ([]uint64, nvml.Return) {
	return call(g.available, "GetRetiredPages", func() ([]uint64, nvml.Return) { return g.device.GetRetiredPages(x) })
}

func (g guardedDevice) GetRetiredPagesPendingStatus() (nvml.EnableState, nvml.Return) {
	return call(g.available, "GetRetiredPagesPendingStatus", g.device.GetRetiredPagesPendingStatus)
}

func (g guardedDevice) GetGpuFabricInfo() (nvml.GpuFabricInfo, nvml.Return) {
	return call(g.available, "GetGpuFabricInfo", g.device.GetGpuFabricInfo)
}

func (g guardedDevice) GetGpuFabricInfoV2() (nvml.GpuFabricInfo_v2, nvml.Return) {
	return call(g.available, "GetGpuFabricInfoV2", g.device.GetGpuFabricInfoV2)
}

func (g guardedDevice) GetGpuFabricInfoV3() (nvml.GpuFabricInfo_v3, nvml.Return) {
	return call(g.available, "GetGpuFabricInfoV3", g.device.GetGpuFabricInfoV3)
}

func (g guardedDevice) GetNvLinkState(x int) (nvml.EnableState, nvml.Return) {
	return call(g.available, "GetNvLinkState", func() (nvml.EnableState, nvml.Return) { return g.device.GetNvLinkState(x) })
}

func (g guardedDevice) GetComputeRunningProcesses() ([]nvml.ProcessInfo, nvml.Return) {
	return call(g.available, "GetComputeRunningProcesses", g.device.GetComputeRunningProcesses)
}

func (g guardedDevice) GetMPSComputeRunningProcesses() ([]nvml.ProcessInfo, nvml.Return) {
	return call(g.available, "GetMPSComputeRunningProcesses", g.device.GetMPSComputeRunningProcesses)
}

func (g guardedDevice) GetSupportedEventTypes() (uint64, nvml.Return) {
	return call(g.available, "GetSupportedEventTypes", g.device.GetSupportedEventTypes)
}

func (g guardedDevice) RegisterEvents(types uint64, set nvml.EventSet) nvml.Return {
	return plain(g.available, "RegisterEvents", func() nvml.Return { return g.device.RegisterEvents(types, set) })
}

func (g guardedDevice) GpmQueryDeviceSupport() (nvml.GpmSupport, nvml.Return) {
	return call(g.available, "GpmQueryDeviceSupport", g.device.GpmQueryDeviceSupport)
}

func (g guardedDevice) GpmSampleGet(s nvml.GpmSample) nvml.Return {
	return plain(g.available, "GpmSampleGet", func() nvml.Return { return g.device.GpmSampleGet(s) })
}

func (g guardedDevice) GpmMigSampleGet(instance int, s nvml.GpmSample) nvml.Return {
	return plain(g.available, "GpmMigSampleGet", func() nvml.Return { return g.device.GpmMigSampleGet(instance, s) })
}

func (g guardedDevice) GetMigMode() (current, pending int, ret nvml.Return) {
	if !g.available["GetMigMode"] {
		return 0, 0, nvml.ERROR_FUNCTION_NOT_FOUND
	}
	return g.device.GetMigMode()
}

func (g guardedDevice) GetMaxMigDeviceCount() (int, nvml.Return) {
	return call(g.available, "GetMaxMigDeviceCount", g.device.GetMaxMigDeviceCount)
}

func (g guardedDevice) GetMigDeviceHandleByIndex(x int) (nvml.Device, nvml.Return) {
	return call(g.available, "GetMigDeviceHandleByIndex", func() (nvml.Device, nvml.Return) { return g.device.GetMigDeviceHandleByIndex(x) })
}

func (g guardedDevice) GetGpuInstanceId() (int, nvml.Return) { //nolint:revive // go-nvml's name
	return call(g.available, "GetGpuInstanceId", g.device.GetGpuInstanceId)
}

func (g guardedDevice) GetComputeInstanceId() (int, nvml.Return) { //nolint:revive // go-nvml's name
	return call(g.available, "GetComputeInstanceId", g.device.GetComputeInstanceId)
}
