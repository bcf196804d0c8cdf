//go:build cgo && linux

package nvml

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/gpupool/gpupool/agent/gpu"
)

// board is one GPU. It is used by one goroutine.
type board struct {
	library  *Library
	calls    guardedDevice
	parts    map[string]guardedDevice // MIG devices of the last layout, by UUID
	monitors map[int]*monitor         // by GPU instance
}

// Identity fails only without the UUID; name and bus ID are a courtesy.
func (b *board) Identity() (gpu.Identity, error) {
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

// eventTypes are worth to be told of: errors, and what changes the GPU. Single
// bit errors are not, there can be very many of them.
const eventTypes = nvml.EventTypeXidCriticalError | nvml.EventTypeDoubleBitEccError | migChanged |
	nvml.EventTypeDramRetirementEvent | nvml.EventTypeDramRetirementFailure | nvml.EventTypeFatalPoisonError |
	nvml.EventTypeGpuUnavailableError | nvml.EventTypeGpuRecoveryAction

// migChanged is nvmlEventMigConfigChange.
const migChanged = 0x100

// Watch registers for those events that the GPU has.
func (b *board) Watch() error {
	if b.library.eventsErr != nil {
		return b.library.eventsErr
	}
	types, ret := b.calls.GetSupportedEventTypes()
	if ret != nvml.SUCCESS {
		return ErrorOf("nvmlDeviceGetSupportedEventTypes", int(ret))
	}
	if types&nvml.EventTypeXidCriticalError == 0 {
		return ErrorOf("nvmlDeviceGetSupportedEventTypes", notSupported)
	}
	return ErrorOf("nvmlDeviceRegisterEvents", int(b.calls.RegisterEvents(types&eventTypes, b.library.events)))
}

// Close frees the monitors' samples, which are memory of this process.
func (b *board) Close() {
	for instance := range b.monitors {
		b.drop(instance)
	}
}

// Number reads one number; the newer of two calls first.
func (b *board) Number(q gpu.Quantity) (float64, error) {
	switch q {
	case gpu.Busy:
		u, ret := b.calls.GetUtilizationRates()
		return float64(u.Gpu) / 100, ErrorOf("nvmlDeviceGetUtilizationRates", int(ret))
	case gpu.Power:
		mw, ret := b.calls.GetPowerUsage()
		return float64(mw) / 1000, ErrorOf("nvmlDeviceGetPowerUsage", int(ret))
	case gpu.PowerLimit:
		mw, ret := b.calls.GetEnforcedPowerLimit()
		return float64(mw) / 1000, ErrorOf("nvmlDeviceGetEnforcedPowerLimit", int(ret))
	case gpu.Energy:
		mj, ret := b.calls.GetTotalEnergyConsumption()
		return float64(mj) / 1000, ErrorOf("nvmlDeviceGetTotalEnergyConsumption", int(ret))
	case gpu.Temperature:
		if t, ret := b.calls.GetTemperatureV1(); ret == nvml.SUCCESS {
			return float64(t.Temperature), nil
		}
		t, ret := b.calls.GetTemperature(nvml.TEMPERATURE_GPU)
		return float64(t), ErrorOf("nvmlDeviceGetTemperature", int(ret))
	case gpu.MemoryTemperature:
		return b.field(nvml.FI_DEV_MEMORY_TEMP)
	case gpu.RecoveryAction:
		return b.field(nvml.FI_DEV_GET_GPU_RECOVERY_ACTION)
	case gpu.SMClock:
		return b.clock(nvml.CLOCK_SM)
	case gpu.MemoryClock:
		return b.clock(nvml.CLOCK_MEM)
	case gpu.Throttling:
		mask, ret := b.calls.GetCurrentClocksEventReasons()
		if ret == nvml.ERROR_FUNCTION_NOT_FOUND {
			mask, ret = b.calls.GetCurrentClocksThrottleReasons()
		}
		return float64(mask), ErrorOf("nvmlDeviceGetCurrentClocksEventReasons", int(ret))
	case gpu.Persistence:
		mode, ret := b.calls.GetPersistenceMode()
		return float64(mode), ErrorOf("nvmlDeviceGetPersistenceMode", int(ret))
	case gpu.PCIeReplays:
		n, ret := b.calls.GetPcieReplayCounter()
		return float64(n), ErrorOf("nvmlDeviceGetPcieReplayCounter", int(ret))
	}
	return 0, fmt.Errorf("quantity %d: %w", q, gpu.ErrUnsupported)
}

func (b *board) clock(of nvml.ClockType) (hertz float64, err error) {
	mhz, ret := b.calls.GetClockInfo(of)
	return float64(mhz) * 1e6, ErrorOf("nvmlDeviceGetClockInfo", int(ret))
}

const fieldCall = "nvmlDeviceGetFieldValues"

// fields reads some of NVML's numbered fields (NVML_FI_*). Those that the GPU
// does not have are nil.
func (b *board) fields(ids ...uint32) ([]*float64, error) {
	values := make([]nvml.FieldValue, len(ids))
	for i, id := range ids {
		values[i].FieldId = id
	}
	if ret := b.calls.GetFieldValues(values); ret != nvml.SUCCESS {
		return nil, ErrorOf(fieldCall, int(ret))
	}
	numbers := make([]*float64, len(ids))
	for i, v := range values {
		err := ErrorOf(fieldCall, int(v.NvmlReturn))
		if errors.Is(err, gpu.ErrLost) || errors.Is(err, gpu.ErrGone) {
			return nil, err
		}
		if n, ok := decode(nvml.ValueType(v.ValueType), v.Value); ok && err == nil {
			numbers[i] = &n
		}
	}
	return numbers, nil
}

// field reads one field.
func (b *board) field(id uint32) (float64, error) {
	numbers, err := b.fields(id)
	if err != nil {
		return 0, err
	}
	if numbers[0] == nil {
		return 0, ErrorOf(fieldCall, notSupported)
	}
	return *numbers[0], nil
}

// decode reads nvmlValue_t, a union. It is false for a type that is newer than
// this program, and for what is no number.
func decode(kind nvml.ValueType, value [8]byte) (n float64, ok bool) {
	bits := binary.NativeEndian.Uint64(value[:])
	half := binary.NativeEndian.Uint32(value[:])
	switch kind {
	case nvml.VALUE_TYPE_DOUBLE:
		n = math.Float64frombits(bits)
	case nvml.VALUE_TYPE_UNSIGNED_INT:
		n = float64(half)
	case nvml.VALUE_TYPE_UNSIGNED_LONG, nvml.VALUE_TYPE_UNSIGNED_LONG_LONG:
		n = float64(bits)
	case nvml.VALUE_TYPE_SIGNED_LONG_LONG:
		n = float64(int64(bits))
	case nvml.VALUE_TYPE_SIGNED_INT:
		n = float64(int32(half))
	case nvml.VALUE_TYPE_UNSIGNED_SHORT:
		n = float64(binary.NativeEndian.Uint16(value[:]))
	default:
		return 0, false
	}
	return n, !math.IsNaN(n) && !math.IsInf(n, 0)
}

// BusySamples leaves out what no driver wrote: go-nvml returns as many samples
// as the library has room for, and those that are not there are zero.
func (b *board) BusySamples(since uint64) ([]gpu.BusySample, error) {
	kind, all, ret := b.calls.GetSamples(nvml.GPU_UTILIZATION_SAMPLES, since)
	switch ret {
	case nvml.ERROR_NOT_FOUND: // nothing newer
		return nil, nil
	case nvml.SUCCESS:
	default:
		return nil, ErrorOf("nvmlDeviceGetSamples", int(ret))
	}
	var samples []gpu.BusySample
	for _, s := range all {
		percent, ok := decode(kind, s.SampleValue)
		if ok && s.TimeStamp > since {
			samples = append(samples, gpu.BusySample{At: s.TimeStamp, Share: percent / 100})
		}
	}
	return samples, nil
}

// Memory asks the newer call first; the older one counts reserved memory as
// used.
func (b *board) Memory() (gpu.Memory, error) { return memory(b.calls) }

func memory(calls guardedDevice) (gpu.Memory, error) {
	if m, ret := calls.GetMemoryInfo_v2(); ret == nvml.SUCCESS {
		return gpu.Memory{Used: m.Used, Total: m.Total, Reserved: &m.Reserved}, nil
	}
	m, ret := calls.GetMemoryInfo()
	return gpu.Memory{Used: m.Used, Total: m.Total}, ErrorOf("nvmlDeviceGetMemoryInfo", int(ret))
}

// Processes are the compute processes and those that use the GPU through MPS,
// which some drivers list apart.
func (b *board) Processes() ([]gpu.Process, error) {
	infos, ret := b.calls.GetComputeRunningProcesses()
	if ret != nvml.SUCCESS {
		return nil, ErrorOf("nvmlDeviceGetComputeRunningProcesses", int(ret))
	}
	seen := map[uint32]bool{}
	for _, info := range infos {
		seen[info.Pid] = true
	}
	clients, ret := b.calls.GetMPSComputeRunningProcesses()
	if err := ErrorOf("nvmlDeviceGetMPSComputeRunningProcesses", int(ret)); err != nil && !errors.Is(err, gpu.ErrUnsupported) {
		return nil, err
	}
	for _, c := range clients {
		if !seen[c.Pid] {
			infos = append(infos, c)
		}
	}
	processes := make([]gpu.Process, len(infos))
	for i, info := range infos {
		processes[i] = gpu.Process{PID: int(info.Pid), GPUInstance: instance(info.GpuInstanceId), ComputeInstance: instance(info.ComputeInstanceId)}
		if info.UsedGpuMemory != math.MaxUint64 { // NVML_VALUE_NOT_AVAILABLE
			processes[i].Memory = &infos[i].UsedGpuMemory
		}
	}
	return processes, nil
}

// instance is the ID of a GPU instance or a compute instance.
func instance(id uint32) int {
	if id == math.MaxUint32 {
		return gpu.WholeGPU
	}
	return int(id)
}

// ECC counts what the GPU counts; with ECC off it counts nothing.
func (b *board) ECC() (e gpu.ECC, err error) {
	mode, _, ret := b.calls.GetEccMode()
	if ret != nvml.SUCCESS {
		return gpu.ECC{}, ErrorOf("nvmlDeviceGetEccMode", int(ret))
	}
	on := mode == nvml.FEATURE_ENABLED
	e.Enabled = &on
	if !on {
		return e, nil
	}
	for _, c := range []struct {
		to   **int64
		kind nvml.MemoryErrorType
		over nvml.EccCounterType
	}{
		{&e.Corrected, nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.VOLATILE_ECC},
		{&e.Uncorrected, nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC},
		{&e.CorrectedEver, nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.AGGREGATE_ECC},
		{&e.UncorrectedEver, nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.AGGREGATE_ECC},
	} {
		n, ret := b.calls.GetTotalEccErrors(c.kind, c.over)
		switch err := ErrorOf("nvmlDeviceGetTotalEccErrors", int(ret)); {
		case err == nil:
			count := int64(min(n, 1<<62))
			*c.to = &count
		case !errors.Is(err, gpu.ErrUnsupported):
			return gpu.ECC{}, err
		}
	}
	return e, nil
}

// Rows are not told of while the GPU is divided.
func (b *board) Rows() (gpu.Rows, error) {
	corrected, uncorrected, pending, failed, ret := b.calls.GetRemappedRows()
	return gpu.Rows{Corrected: int64(corrected), Uncorrected: int64(uncorrected), Pending: pending, Failed: failed},
		ErrorOf("nvmlDeviceGetRemappedRows", int(ret))
}

// Pages are retired by GPUs before Ampere.
func (b *board) Pages() (gpu.Pages, error) {
	pending, ret := b.calls.GetRetiredPagesPendingStatus()
	if ret != nvml.SUCCESS {
		return gpu.Pages{}, ErrorOf("nvmlDeviceGetRetiredPagesPendingStatus", int(ret))
	}
	p := gpu.Pages{Pending: pending == nvml.FEATURE_ENABLED}
	for cause, to := range map[nvml.PageRetirementCause]**int64{
		nvml.PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS: &p.SingleBit,
		nvml.PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR:           &p.DoubleBit,
	} {
		addresses, ret := b.calls.GetRetiredPages(cause)
		switch err := ErrorOf("nvmlDeviceGetRetiredPages", int(ret)); {
		case err == nil:
			count := int64(len(addresses))
			*to = &count
		case !errors.Is(err, gpu.ErrUnsupported):
			return gpu.Pages{}, err
		}
	}
	return p, nil
}

// Fabric asks the newest call first, which is the only one with a verdict.
func (b *board) Fabric() (gpu.Fabric, error) {
	const call = "nvmlDeviceGetGpuFabricInfo"
	v3, ret := b.calls.GetGpuFabricInfoV3()
	if ret == nvml.SUCCESS {
		return gpu.Fabric{State: int(v3.State), Status: int(v3.Status), Health: int(v3.HealthSummary)}, nil
	}
	if older(ret) {
		var v2 nvml.GpuFabricInfo_v2
		if v2, ret = b.calls.GetGpuFabricInfoV2(); ret == nvml.SUCCESS {
			return gpu.Fabric{State: int(v2.State), Status: int(v2.Status)}, nil
		}
	}
	if older(ret) {
		var v1 nvml.GpuFabricInfo
		if v1, ret = b.calls.GetGpuFabricInfo(); ret == nvml.SUCCESS {
			return gpu.Fabric{State: int(v1.State), Status: int(v1.Status)}, nil
		}
	}
	return gpu.Fabric{}, ErrorOf(call, int(ret))
}

// older says that the library may know an older form of a call.
func older(ret nvml.Return) bool {
	return ret == nvml.ERROR_ARGUMENT_VERSION_MISMATCH || ret == nvml.ERROR_FUNCTION_NOT_FOUND || ret == nvml.ERROR_INVALID_ARGUMENT
}

// NVLink asks every link for its state, and for all of them together how many
// errors there were.
func (b *board) NVLink() (l gpu.NVLink, err error) {
	for i := range nvml.NVLINK_MAX_LINKS {
		active, ret := b.calls.GetNvLinkState(i)
		if ret == nvml.ERROR_INVALID_ARGUMENT {
			break // no more
		}
		switch err := ErrorOf("nvmlDeviceGetNvLinkState", int(ret)); {
		case err == nil:
			l.Links++
			if active == nvml.FEATURE_ENABLED {
				l.Active++
			}
		case !errors.Is(err, gpu.ErrUnsupported):
			return gpu.NVLink{}, err
		case !b.calls.available["GetNvLinkState"]:
			return gpu.NVLink{}, err
		}
	}
	if l.Links == 0 {
		return gpu.NVLink{}, ErrorOf("nvmlDeviceGetNvLinkState", notSupported)
	}
	counters, err := b.fields(nvml.FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL, nvml.FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL,
		nvml.FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL, nvml.FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL)
	if err != nil && !errors.Is(err, gpu.ErrUnsupported) {
		return gpu.NVLink{}, err
	}
	for _, c := range counters {
		if c == nil {
			continue
		}
		if l.Errors == nil {
			l.Errors = new(int64)
		}
		*l.Errors += int64(*c)
	}
	return l, nil
}

// mostParts bounds the walk over a GPU's MIG devices.
const mostParts = 64

// MIG finds the MIG devices, between whose numbers there may be holes.
func (b *board) MIG() (m gpu.MIG, err error) {
	mode, _, ret := b.calls.GetMigMode()
	if ret != nvml.SUCCESS {
		return gpu.MIG{}, ErrorOf("nvmlDeviceGetMigMode", int(ret))
	}
	m.Enabled = mode == nvml.DEVICE_MIG_ENABLE
	parts := map[string]guardedDevice{}
	if m.Enabled {
		most, ret := b.calls.GetMaxMigDeviceCount()
		if ret != nvml.SUCCESS {
			return gpu.MIG{}, ErrorOf("nvmlDeviceGetMaxMigDeviceCount", int(ret))
		}
		for i := range min(most, mostParts) {
			d, ret := b.calls.GetMigDeviceHandleByIndex(i)
			if ret == nvml.ERROR_NOT_FOUND || ret == nvml.ERROR_INVALID_ARGUMENT {
				continue
			}
			if ret != nvml.SUCCESS {
				return gpu.MIG{}, ErrorOf("nvmlDeviceGetMigDeviceHandleByIndex", int(ret))
			}
			calls := guardedDevice{flat{d}, b.calls.available}
			part, err := describe(calls)
			if err != nil {
				return gpu.MIG{}, err
			}
			m.Parts = append(m.Parts, part)
			parts[part.UUID] = calls
		}
	}
	b.parts = parts
	b.forget(m)
	return m, nil
}

// describe says what a MIG device is. Its name ends with that of its profile:
// NVIDIA H100 80GB HBM3 MIG 1g.10gb.
func describe(calls guardedDevice) (p gpu.Part, err error) {
	uuid, ret := calls.GetUUID()
	if ret != nvml.SUCCESS {
		return gpu.Part{}, ErrorOf("nvmlDeviceGetUUID", int(ret))
	}
	gi, ret := calls.GetGpuInstanceId()
	if ret != nvml.SUCCESS {
		return gpu.Part{}, ErrorOf("nvmlDeviceGetGpuInstanceId", int(ret))
	}
	ci, ret := calls.GetComputeInstanceId()
	if ret != nvml.SUCCESS {
		return gpu.Part{}, ErrorOf("nvmlDeviceGetComputeInstanceId", int(ret))
	}
	p = gpu.Part{UUID: uuid, GPUInstance: gi, ComputeInstance: ci}
	if name, ret := calls.GetName(); ret == nvml.SUCCESS {
		_, p.Profile, _ = strings.Cut(name, " MIG ")
	}
	return p, nil
}

// PartMemory reads the memory of a MIG device of the last layout.
func (b *board) PartMemory(uuid string) (gpu.Memory, error) {
	calls, ok := b.parts[uuid]
	if !ok {
		return gpu.Memory{}, ErrorOf("nvmlDeviceGetMigDeviceHandleByIndex", notFound)
	}
	return memory(calls)
}

// leastSpan is what NVML wants between two samples of its monitors.
const leastSpan = 100 * time.Millisecond

// monitor holds two samples of the performance monitors of a GPU or a GPU
// instance.
type monitor struct {
	last, next nvml.GpmSample
	at         time.Time // of last; zero if there is none
}

// Activity compares a new sample of the performance monitors with that of the
// call before.
func (b *board) Activity(instance int) (gpu.Activity, bool, error) {
	m := b.monitors[instance]
	if m == nil {
		var err error
		if m, err = b.monitor(); err != nil {
			return gpu.Activity{}, false, err
		}
		b.monitors[instance] = m
	}
	now := time.Now()
	if now.Sub(m.at) < leastSpan {
		return gpu.Activity{}, false, nil
	}
	var ret nvml.Return
	if instance == gpu.WholeGPU {
		ret = b.calls.GpmSampleGet(m.next)
	} else {
		ret = b.calls.GpmMigSampleGet(instance, m.next)
	}
	if ret != nvml.SUCCESS {
		m.at = time.Time{}
		return gpu.Activity{}, false, ErrorOf("nvmlGpmSampleGet", int(ret))
	}
	before, first := m.at, m.at.IsZero()
	m.last, m.next, m.at = m.next, m.last, now
	if first {
		return gpu.Activity{}, false, nil
	}
	a := gpu.Activity{Over: now.Sub(before)}
	wanted := []struct {
		id nvml.GpmMetricId
		to **float64
	}{
		{nvml.GPM_METRIC_SM_UTIL, &a.SM},
		{nvml.GPM_METRIC_SM_OCCUPANCY, &a.SMOccupancy},
		{nvml.GPM_METRIC_ANY_TENSOR_UTIL, &a.Tensor},
		{nvml.GPM_METRIC_DRAM_BW_UTIL, &a.DRAM},
		{nvml.GPM_METRIC_GRAPHICS_UTIL, &a.Graphics},
	}
	get := &nvml.GpmMetricsGetType{NumMetrics: uint32(len(wanted)), Sample1: m.next, Sample2: m.last}
	for i, w := range wanted {
		get.Metrics[i].MetricId = uint32(w.id)
	}
	if ret := b.library.calls.GpmMetricsGet(get); ret != nvml.SUCCESS {
		return gpu.Activity{}, false, ErrorOf("nvmlGpmMetricsGet", int(ret))
	}
	for i, w := range wanted {
		if v := get.Metrics[i]; v.NvmlReturn == uint32(nvml.SUCCESS) && v.Value >= 0 { // neither so for NaN
			ratio := min(1, v.Value/100)
			*w.to = &ratio
		}
	}
	return a, true, nil
}

// monitor makes a monitor, if the GPU has any.
func (b *board) monitor() (*monitor, error) {
	support, ret := b.calls.GpmQueryDeviceSupport()
	if ret != nvml.SUCCESS {
		return nil, ErrorOf("nvmlGpmQueryDeviceSupport", int(ret))
	}
	if support.IsSupportedDevice == 0 {
		return nil, ErrorOf("nvmlGpmQueryDeviceSupport", notSupported)
	}
	m := &monitor{}
	if m.last, ret = b.library.calls.GpmSampleAlloc(); ret != nvml.SUCCESS {
		return nil, ErrorOf("nvmlGpmSampleAlloc", int(ret))
	}
	if m.next, ret = b.library.calls.GpmSampleAlloc(); ret != nvml.SUCCESS {
		_ = b.library.calls.GpmSampleFree(m.last) // the error of the other is the one that counts
		return nil, ErrorOf("nvmlGpmSampleAlloc", int(ret))
	}
	return m, nil
}

// forget drops the monitors of what is not in a layout any more.
func (b *board) forget(m gpu.MIG) {
	there := map[int]bool{gpu.WholeGPU: !m.Enabled}
	for _, p := range m.Parts {
		there[p.GPUInstance] = true
	}
	for instance := range b.monitors {
		if !there[instance] {
			b.drop(instance)
		}
	}
}

func (b *board) drop(instance int) {
	m := b.monitors[instance]
	delete(b.monitors, instance)
	_ = b.library.calls.GpmSampleFree(m.last) // nothing can be done about what cannot be freed
	_ = b.library.calls.GpmSampleFree(m.next)
}
