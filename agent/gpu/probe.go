package gpu

import (
	"errors"
	"strconv"
	"time"

	"github.com/gpupool/gpupool/internal/fleet"
)

// Tiers, in samples from one reading to the next. What changes slowly or costs
// the driver more is read more seldom.
const (
	fast   = 1
	medium = 10
	slow   = 60
)

// facts are what was read of a GPU.
type facts struct {
	numbers   [Quantities]float64
	memory    Memory
	processes processes
	activity  Activity
	ecc       ECC
	rows      Rows
	pages     Pages
	fabric    Fabric
	nvlink    NVLink
	mig       MIG
	parts     map[string]Memory // by UUID of the MIG device; nil or replaced, never changed
	instances map[int]Activity  // by GPU instance; likewise
}

// processes is who uses a GPU.
type processes struct {
	list    []fleet.Process // those outside first, at most fleet.MaxProcesses
	total   int
	outside int
	parts   map[string]count // by UUID of the MIG device
}

type count struct{ total, outside int }

// probe is one thing that is read of a GPU.
type probe struct {
	every int // samples from one reading to the next
	// read makes the calls and puts what they answer into f.
	read func(s *slot, f *facts) error
	// show puts it into g. Only if r is known is it in f.
	show func(f *facts, r fleet.Read, g *fleet.GPU)
}

// Reasons for a probe to have no new facts that are nothing against the GPU.
var (
	// errNotYet: the driver answered, but a measure needs two readings.
	errNotYet = errors.New("not yet")
	// errNothing: there was nothing to ask, so it is not known whether the
	// driver answers.
	errNothing = errors.New("nothing to ask")
)

// probes are in the order in which a sample makes them. What the layout of the
// GPU decides comes after it.
var probes = []probe{
	{slow, readMIG, showMIG},
	{fast, (*slot).readBusy, showNumber(Busy, func(g *fleet.GPU) *fleet.Value { return &g.Busy })},
	{fast, readMemory, showMemory},
	{fast, (*slot).readProcesses, showProcesses},
	{fast, (*slot).readThrottle, showThrottle},
	{fast, readParts, showParts},
	{medium, (*slot).readActivity, showActivity},
	{medium, readInstances, showInstances},
	number(medium, Temperature, func(g *fleet.GPU) *fleet.Value { return &g.Temperature }),
	number(medium, MemoryTemperature, func(g *fleet.GPU) *fleet.Value { return &g.MemoryTemperature }),
	{medium, (*slot).readEnergy, showNumber(Energy, func(g *fleet.GPU) *fleet.Value { return &g.Energy })},
	{medium, (*slot).readPower, showNumber(Power, func(g *fleet.GPU) *fleet.Value { return &g.Power })},
	{medium, readClocks, showClocks},
	number(slow, PowerLimit, func(g *fleet.GPU) *fleet.Value { return &g.PowerLimit }),
	number(slow, Persistence, func(g *fleet.GPU) *fleet.Value { return &g.Persistence }),
	number(slow, PCIeReplays, func(g *fleet.GPU) *fleet.Value { return &g.PCIeReplays }),
	{slow, readECC, showECC},
	{slow, readRows, showRows},
	{slow, readPages, showPages},
	{slow, readRecovery, showRecovery},
	{slow, readFabric, showFabric},
	{slow, readNVLink, showNVLink},
}

// number is the probe of one number.
func number(every int, q Quantity, to func(*fleet.GPU) *fleet.Value) probe {
	return probe{every, func(s *slot, f *facts) (err error) {
		f.numbers[q], err = s.device.Number(q)
		return err
	}, showNumber(q, to)}
}

func showNumber(q Quantity, to func(*fleet.GPU) *fleet.Value) func(*facts, fleet.Read, *fleet.GPU) {
	return func(f *facts, r fleet.Read, g *fleet.GPU) { *to(g) = value(r, f.numbers[q]) }
}

// value is a number that was read.
func value(r fleet.Read, v float64) fleet.Value {
	if !r.Known() {
		return fleet.Value{Quality: r.Quality}
	}
	return fleet.Value{Quality: r.Quality, Value: &v, Age: r.Age}
}

// absent is a number that was not among those that were read together.
func absent(r fleet.Read) fleet.Value {
	if r.Known() {
		r.Quality = fleet.QualityUnsupported
	}
	return fleet.Value{Quality: r.Quality}
}

func readMemory(s *slot, f *facts) (err error) {
	f.memory, err = s.device.Memory()
	return err
}

func showMemory(f *facts, r fleet.Read, g *fleet.GPU) {
	g.MemoryUsed, g.MemoryTotal = value(r, float64(f.memory.Used)), value(r, float64(f.memory.Total))
	g.MemoryReserved = absent(r)
	if reserved := f.memory.Reserved; reserved != nil {
		g.MemoryReserved = value(r, float64(*reserved))
	}
}

func showProcesses(f *facts, r fleet.Read, g *fleet.GPU) {
	g.Processes = fleet.Processes{Quality: r.Quality}
	if r.Known() {
		p := f.processes
		g.Processes = fleet.Processes{Quality: r.Quality, Age: r.Age, Total: p.total, Outside: p.outside, List: p.list}
		for i, d := range g.MIG.Devices {
			g.MIG.Devices[i].Processes, g.MIG.Devices[i].Outside = p.parts[d.UUID].total, p.parts[d.UUID].outside
		}
	}
}

func showThrottle(f *facts, r fleet.Read, g *fleet.GPU) {
	g.Throttle = fleet.Throttle{Read: r}
	if r.Known() {
		g.Throttle.Reasons = reasons(uint64(f.numbers[Throttling]))
	}
}

// readActivity leaves a divided GPU to readInstances.
func (s *slot) readActivity(f *facts) error {
	if f.mig.Enabled {
		return ErrUnsupported
	}
	a, ok, err := s.device.Activity(WholeGPU)
	if err != nil {
		return err
	}
	if !ok {
		return errNotYet
	}
	f.activity = a
	if a.SM != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sm.add(time.Now(), *a.SM)
	}
	return nil
}

func showActivity(f *facts, r fleet.Read, g *fleet.GPU) { g.Activity = activity(r, f.activity) }

func activity(r fleet.Read, a Activity) fleet.Activity {
	if !r.Known() {
		return fleet.Activity{Read: r}
	}
	return fleet.Activity{Read: r, Seconds: a.Over.Round(time.Millisecond).Seconds(),
		SM: a.SM, SMOccupancy: a.SMOccupancy, Tensor: a.Tensor, DRAM: a.DRAM, Graphics: a.Graphics}
}

func readClocks(s *slot, f *facts) error {
	sm, err := s.device.Number(SMClock)
	if err != nil {
		return err
	}
	memory, err := s.device.Number(MemoryClock)
	if err != nil && !errors.Is(err, ErrUnsupported) {
		return err
	}
	f.numbers[SMClock], f.numbers[MemoryClock] = sm, memory
	return nil
}

func showClocks(f *facts, r fleet.Read, g *fleet.GPU) {
	g.Clocks = fleet.Clocks{Read: r}
	if !r.Known() {
		return
	}
	sm, memory := f.numbers[SMClock], f.numbers[MemoryClock]
	g.Clocks.SM = &sm
	if memory > 0 {
		g.Clocks.Memory = &memory
	}
}

func readECC(s *slot, f *facts) (err error) {
	f.ecc, err = s.device.ECC()
	return err
}

func showECC(f *facts, r fleet.Read, g *fleet.GPU) {
	g.ECC = fleet.ECC{Read: r}
	if e := f.ecc; r.Known() {
		g.ECC = fleet.ECC{Read: r, Enabled: e.Enabled, Corrected: e.Corrected, Uncorrected: e.Uncorrected,
			CorrectedEver: e.CorrectedEver, UncorrectedEver: e.UncorrectedEver}
	}
}

func readRows(s *slot, f *facts) (err error) {
	f.rows, err = s.device.Rows()
	return err
}

func showRows(f *facts, r fleet.Read, g *fleet.GPU) {
	g.Rows = fleet.Rows{Read: r}
	if v := f.rows; r.Known() {
		g.Rows = fleet.Rows{Read: r, Corrected: v.Corrected, Uncorrected: v.Uncorrected, Pending: v.Pending, Failed: v.Failed}
	}
}

func readPages(s *slot, f *facts) (err error) {
	f.pages, err = s.device.Pages()
	return err
}

func showPages(f *facts, r fleet.Read, g *fleet.GPU) {
	g.Pages = fleet.Pages{Read: r}
	if v := f.pages; r.Known() {
		g.Pages = fleet.Pages{Read: r, SingleBit: v.SingleBit, DoubleBit: v.DoubleBit, Pending: v.Pending}
	}
}

func readRecovery(s *slot, f *facts) (err error) {
	f.numbers[RecoveryAction], err = s.device.Number(RecoveryAction)
	return err
}

func showRecovery(f *facts, r fleet.Read, g *fleet.GPU) {
	g.Recovery = fleet.Recovery{Read: r}
	if r.Known() {
		g.Recovery.Action = word(fleet.RecoveryActions, int(f.numbers[RecoveryAction]))
	}
}

// word is the word of a number, or the number itself if it has none.
func word(words []string, n int) string {
	if n < 0 || n >= len(words) {
		return strconv.Itoa(n)
	}
	return words[n]
}

func readFabric(s *slot, f *facts) (err error) {
	f.fabric, err = s.device.Fabric()
	return err
}

func showFabric(f *facts, r fleet.Read, g *fleet.GPU) {
	g.Fabric = fleet.Fabric{Read: r}
	if v := f.fabric; r.Known() {
		g.Fabric = fleet.Fabric{Read: r, State: word(fleet.FabricStates, v.State), Status: v.Status, Health: word(fleet.FabricHealths, v.Health)}
	}
}

func readNVLink(s *slot, f *facts) (err error) {
	f.nvlink, err = s.device.NVLink()
	return err
}

func showNVLink(f *facts, r fleet.Read, g *fleet.GPU) {
	g.NVLink = fleet.NVLink{Read: r}
	if v := f.nvlink; r.Known() {
		g.NVLink = fleet.NVLink{Read: r, Links: v.Links, Active: v.Active, Errors: v.Errors}
	}
}

// readMIG reads how the GPU is divided. A GPU that cannot be divided is whole.
func readMIG(s *slot, f *facts) error {
	m, err := s.device.MIG()
	if err != nil {
		return err
	}
	m.Parts = m.Parts[:min(len(m.Parts), fleet.MaxMIGDevices)]
	f.mig, f.parts, f.instances = m, nil, nil
	return nil
}

func showMIG(f *facts, r fleet.Read, g *fleet.GPU) {
	g.MIG = fleet.MIG{Read: r}
	if !r.Known() || !f.mig.Enabled {
		return
	}
	g.MIG.Enabled = true
	for _, p := range f.mig.Parts {
		g.MIG.Devices = append(g.MIG.Devices, fleet.MIGDevice{
			UUID: p.UUID, Profile: p.Profile, GPUInstance: p.GPUInstance, ComputeInstance: p.ComputeInstance,
		})
	}
}

// readParts reads the memory of each MIG device. One that is not there any
// more has the layout read anew.
func readParts(s *slot, f *facts) error {
	if len(f.mig.Parts) == 0 {
		return errNothing
	}
	f.parts = map[string]Memory{}
	for _, p := range f.mig.Parts {
		m, err := s.device.PartMemory(p.UUID)
		if err != nil {
			if !errors.Is(err, ErrUnsupported) {
				s.hurry.Store(true)
			}
			return err
		}
		f.parts[p.UUID] = m
	}
	return nil
}

func showParts(f *facts, r fleet.Read, g *fleet.GPU) {
	for i, d := range g.MIG.Devices {
		read := r
		m, ok := f.parts[d.UUID]
		if !ok && r.Known() { // divided anew since
			read = fleet.Read{Quality: fleet.QualityUnknown}
		}
		g.MIG.Devices[i].MemoryUsed, g.MIG.Devices[i].MemoryTotal = value(read, float64(m.Used)), value(read, float64(m.Total))
	}
}

// readInstances reads the activity of each GPU instance of a divided GPU.
func readInstances(s *slot, f *facts) error {
	if len(f.mig.Parts) == 0 {
		return errNothing
	}
	got := map[int]Activity{}
	asked := map[int]bool{}
	for _, p := range f.mig.Parts {
		if asked[p.GPUInstance] {
			continue
		}
		asked[p.GPUInstance] = true
		a, ok, err := s.device.Activity(p.GPUInstance)
		if err != nil {
			return err
		}
		if ok {
			got[p.GPUInstance] = a
		}
	}
	if len(got) == 0 {
		return errNotYet
	}
	f.instances = got
	return nil
}

func showInstances(f *facts, r fleet.Read, g *fleet.GPU) {
	for i, d := range g.MIG.Devices {
		read := r
		a, ok := f.instances[d.GPUInstance]
		if !ok && r.Known() {
			read = fleet.Read{Quality: fleet.QualityUnknown}
		}
		g.MIG.Devices[i].Activity = activity(read, a)
	}
}
