package fleet

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// Bounds on what one GPU can have. A snapshot beyond them is refused.
const (
	MaxMIGDevices = 32 // MIG devices of one GPU; NVIDIA's GPUs have up to 7
	MaxXIDs       = 64 // different XIDs of one GPU
	MaxGrants     = 32 // allocations that were given one GPU, or parts of it
	maxWords      = 32 // throttle reasons, or reasons of a verdict
)

// Read says when a group of facts was read, and what it is worth. The facts
// beside it are meaningful when [Read.Known] is true.
type Read struct {
	Quality Quality `json:"quality"`
	Age     float64 `json:"age_s,omitempty"` // seconds since it was read
}

// Known says whether there are facts, be they stale.
func (r Read) Known() bool { return r.Quality == QualityOK || r.Quality == QualityStale }

// Fresh says whether the facts are as good as they get.
func (r Read) Fresh() bool { return r.Quality == QualityOK }

// Activity is how much of a GPU its work uses, measured by the GPU's own
// performance monitors (NVML's GPM: Hopper and later) over the Seconds before
// it was read, without a gap to the reading before. Unlike [GPU.Busy] these
// are measures of load. A ratio that the GPU does not offer is absent.
type Activity struct {
	Read
	Seconds     float64  `json:"seconds,omitempty"`
	SM          *float64 `json:"sm_ratio,omitempty"`           // time with a warp on a multiprocessor, mean of all of them
	SMOccupancy *float64 `json:"sm_occupancy_ratio,omitempty"` // warps that were resident, of those that fit
	Tensor      *float64 `json:"tensor_ratio,omitempty"`       // time that the tensor cores worked
	DRAM        *float64 `json:"dram_ratio,omitempty"`         // memory bandwidth used
	Graphics    *float64 `json:"graphics_ratio,omitempty"`     // time that any compute or graphics engine worked
}

// Clocks are the present clock rates in hertz.
type Clocks struct {
	Read
	SM     *float64 `json:"sm_hertz,omitempty"`
	Memory *float64 `json:"memory_hertz,omitempty"`
}

// Throttle is what keeps the clocks of a GPU below their maximum.
type Throttle struct {
	Read
	// Reasons hold now; see [ThrottleReasons].
	Reasons []string `json:"reasons,omitempty"`
	// Over has the share of time of each reason that held at all.
	Over []ThrottleWindow `json:"over,omitempty"`
	// Total is the time of each reason in seconds since the agent started.
	Total map[string]float64 `json:"total_s,omitempty"`
}

// ThrottleWindow is the share of the last Seconds in which each reason held.
type ThrottleWindow struct {
	Seconds float64            `json:"seconds"`
	Shares  map[string]float64 `json:"shares,omitempty"`
}

// ThrottleReason is one reason for lowered clocks.
type ThrottleReason struct {
	Name string
	Mask uint64 // NVML's bit of it
	// Slow means that the GPU does less than it could and nobody chose that.
	Slow bool
	What string
}

// ThrottleReasons are the reasons that NVML knows (nvmlClocksEventReason* in
// NVIDIA's NVML API reference), by their bits.
var ThrottleReasons = []ThrottleReason{
	{"gpu_idle", 0x1, false, "nothing runs, so the clocks are low"},
	{"applications_clocks", 0x2, false, "the operator set the clocks"},
	{"sw_power_cap", 0x4, false, "the power limit is reached, as under full load it may be"},
	{"hw_slowdown", 0x8, true, "the hardware halved the clocks or worse: temperature, power brake or power draw"},
	{"sync_boost", 0x10, false, "the GPU waits for others of its sync boost group"},
	{"sw_thermal", 0x20, true, "the driver lowers the clocks because the GPU or its memory is hot"},
	{"hw_thermal", 0x40, true, "the hardware halved the clocks or worse because the GPU is hot"},
	{"hw_power_brake", 0x80, true, "the host's power supply asked the GPU to slow down"},
	{"display_clock", 0x100, false, "the display's clock limits the GPU's"},
	{"board_limit", 0x200, true, "a limit of the board holds the clocks down"},
	{"reliability", 0x400, false, "the voltage is at the limit that the chip's life allows"},
}

// ECC counts memory errors that the GPU detected.
type ECC struct {
	Read
	Enabled *bool `json:"enabled,omitempty"`
	// Since the driver was loaded or the GPU reset, and in the GPU's life.
	Corrected       *int64 `json:"corrected,omitempty"`
	Uncorrected     *int64 `json:"uncorrected,omitempty"`
	CorrectedEver   *int64 `json:"corrected_ever,omitempty"`
	UncorrectedEver *int64 `json:"uncorrected_ever,omitempty"`
}

// Rows are the memory rows that were replaced by spare ones (Ampere and later).
type Rows struct {
	Read
	Corrected   int64 `json:"corrected"`   // replaced for correctable errors
	Uncorrected int64 `json:"uncorrected"` // replaced for an uncorrectable error
	Pending     bool  `json:"pending"`     // the next reset replaces a row
	Failed      bool  `json:"failed"`      // no spare row was left, or replacing failed
}

// Pages are the memory pages that are not used any more (before Ampere).
type Pages struct {
	Read
	SingleBit *int64 `json:"single_bit,omitempty"` // for repeated correctable errors
	DoubleBit *int64 `json:"double_bit,omitempty"` // for an uncorrectable error
	Pending   bool   `json:"pending"`              // the next reset retires a page
}

// Recovery is what the driver says that must be done before the GPU can work
// (again): none, reset, reboot, drain-p2p, drain-and-reset, recover-imex,
// bus-reset, system-reboot, or the number of one that is newer.
type Recovery struct {
	Read
	Action string `json:"action,omitempty"`
}

// RecoveryActions are the words of [Recovery], by NVML's number
// (nvmlDeviceGpuRecoveryAction_t).
var RecoveryActions = []string{
	"none", "reset", "reboot", "drain-p2p", "drain-and-reset", "recover-imex", "bus-reset", "system-reboot",
}

// Fabric is how far the GPU is on its way into the NVLink fabric of an
// NVSwitch system. CUDA does not start before it is completed.
type Fabric struct {
	Read
	State  string `json:"state,omitempty"`  // one of FabricStates
	Status int    `json:"status,omitempty"` // NVML return code of the registration, 0 for success
	// Health is the driver's own verdict, one of FabricHealths, where it has one.
	Health string `json:"health,omitempty"`
}

// FabricStates and FabricHealths are the words of [Fabric], by NVML's numbers.
var (
	FabricStates  = []string{"unsupported", "not-started", "in-progress", "completed"}
	FabricHealths = []string{"", "healthy", "unhealthy", "limited-capacity"}
)

// NVLink is the GPU's links to others. Errors count since the driver was
// loaded or the GPU reset.
type NVLink struct {
	Read
	Links  int    `json:"links"`  // that the GPU has
	Active int    `json:"active"` // of them, those that are up
	Errors *int64 `json:"errors,omitempty"`
}

// MIG is how a GPU is divided.
type MIG struct {
	Read
	Enabled bool        `json:"enabled"`
	Devices []MIGDevice `json:"devices,omitempty"`
}

// MIGDevice is one part of a divided GPU.
type MIGDevice struct {
	UUID            string `json:"uuid"`
	Profile         string `json:"profile,omitempty"` // 1g.10gb
	GPUInstance     int    `json:"gpu_instance"`
	ComputeInstance int    `json:"compute_instance"`

	MemoryUsed  Value `json:"memory_used_bytes"`
	MemoryTotal Value `json:"memory_total_bytes"`
	// Activity is that of the whole GPU instance, which several compute
	// instances may share.
	Activity  Activity `json:"activity,omitzero"`
	Processes int      `json:"processes"` // meaningful as those of the GPU are
	Outside   int      `json:"outside"`   // of them, those of no allocation, or of one that is over
}

// Grants are the allocations that Nomad gave a GPU to, or a part of it, and that
// have not ended. They are there before any process runs. All of it is absent
// where the agent does not ask Nomad.
type Grants struct {
	Quality Quality `json:"quality"`
	List    []Grant `json:"list,omitempty"`
}

// Grant is one task that was given a GPU.
type Grant struct {
	Alloc string `json:"alloc_id"`
	Job   string `json:"job"`
	Task  string `json:"task"`
	MIG   string `json:"mig_uuid,omitempty"` // the part that it was given
}

// XIDs are the errors that the driver reported for a GPU since the agent
// started. List is complete while Quality is ok.
type XIDs struct {
	Quality Quality `json:"quality"`
	List    []XID   `json:"list,omitempty"` // sorted by code
}

// XID is one kind of error; NVIDIA's Xid catalog explains the numbers.
type XID struct {
	Code  int      `json:"xid"`
	Class XIDClass `json:"class"`
	Count int64    `json:"count"` // since the agent started
	Age   float64  `json:"age_s"` // seconds since the last
	// Open is set until the GPU is reset or comes back after the error.
	Open bool `json:"open,omitempty"`
	// Relapses is how often it came back after it was no longer open.
	Relapses int `json:"relapses,omitempty"`
}

// XIDClass is what an XID asks for.
type XIDClass string

const (
	// XIDNone is news, or an error that needs nothing done.
	XIDNone XIDClass = "none"
	// XIDApplication is the fault, or the end, of one program. The GPU is fine.
	XIDApplication XIDClass = "application"
	// XIDReset is an error that a reset of the GPU mends.
	XIDReset XIDClass = "reset"
	// XIDCycle is an error that the host must be power-cycled for.
	XIDCycle XIDClass = "cycle"
	// XIDReplace is an error that people must mend: a cable, a board.
	XIDReplace XIDClass = "replace"
	// XIDUnknown is an error that the agent has no rule for.
	XIDUnknown XIDClass = "unknown"
)

// XIDClasses are all classes.
var XIDClasses = []XIDClass{XIDNone, XIDApplication, XIDReset, XIDCycle, XIDReplace, XIDUnknown}

// Verdict is whether a GPU is fit for work.
type Verdict string

const (
	// HealthUnknown is a GPU that has not been sampled yet.
	HealthUnknown Verdict = "unknown"
	// HealthOK is a GPU with nothing against it.
	HealthOK Verdict = "ok"
	// HealthDegraded is a GPU that works, but not as well as it should, or not
	// for ever: no reason to end its work, and one to place new work elsewhere.
	HealthDegraded Verdict = "degraded"
	// HealthFailed is a GPU that nothing can be expected of.
	HealthFailed Verdict = "failed"
)

// Verdicts are all verdicts, the better first.
var Verdicts = []Verdict{HealthUnknown, HealthOK, HealthDegraded, HealthFailed}

// Action is what would mend a GPU.
type Action string

const (
	// ActionNone is nothing, or nothing that is known.
	ActionNone Action = ""
	// ActionReset is a reset of the GPU, which ends all work on it.
	ActionReset Action = "reset"
	// ActionCycle is a power cycle of the host.
	ActionCycle Action = "cycle"
	// ActionRepair is the work of people: the host is of no use until then.
	ActionRepair Action = "repair"
)

// Actions are all actions, the milder first.
var Actions = []Action{ActionNone, ActionReset, ActionCycle, ActionRepair}

// Health is a verdict with its reasons. The advice is the strongest that any
// reason asks for.
type Health struct {
	Verdict Verdict  `json:"verdict"`
	Why     []string `json:"why,omitempty"`
	Action  Action   `json:"action,omitempty"`
}

// checkFacts refuses what no agent writes about the state of a GPU.
func (g GPU) checkFacts() error {
	const most = 1 << 62
	errs := []error{
		ratios("activity", g.Activity.Read, g.Activity.numbers()...),
		group("clocks", g.Clocks.Read, 1e12, floats(g.Clocks.SM, g.Clocks.Memory)...),
		group("throttle", g.Throttle.Read, 0),
		group("ecc", g.ECC.Read, most, counts(g.ECC.Corrected, g.ECC.Uncorrected, g.ECC.CorrectedEver, g.ECC.UncorrectedEver)...),
		group("remapped_rows", g.Rows.Read, most, float64(g.Rows.Corrected), float64(g.Rows.Uncorrected)),
		group("retired_pages", g.Pages.Read, most, counts(g.Pages.SingleBit, g.Pages.DoubleBit)...),
		group("recovery_action", g.Recovery.Read, 0),
		group("fabric", g.Fabric.Read, math.MaxInt32, float64(g.Fabric.Status)),
		group("nvlink", g.NVLink.Read, most, append(counts(g.NVLink.Errors), float64(g.NVLink.Links), float64(g.NVLink.Active))...),
		g.Throttle.check(),
		g.MIG.check(),
		g.Grants.check(),
		g.XIDs.check(),
		g.Health.check(),
	}
	for _, text := range []string{g.Recovery.Action, g.Fabric.State, g.Fabric.Health} {
		errs = append(errs, short(text))
	}
	return errors.Join(errs...)
}

func (a Activity) numbers() []float64 {
	return floats(a.SM, a.SMOccupancy, a.Tensor, a.DRAM, a.Graphics)
}

func floats(numbers ...*float64) (out []float64) {
	for _, n := range numbers {
		if n != nil {
			out = append(out, *n)
		}
	}
	return out
}

func counts(numbers ...*int64) (out []float64) {
	for _, n := range numbers {
		if n != nil {
			out = append(out, float64(*n))
		}
	}
	return out
}

func ratios(name string, r Read, numbers ...float64) error { return group(name, r, 1, numbers...) }

// group refuses facts that are not between 0 and most, or that have no
// quality to go with.
func group(name string, r Read, most float64, numbers ...float64) error {
	switch r.Quality {
	case "", QualityUnknown, QualityOK, QualityStale, QualityUnsupported, QualityFailed, QualityLost:
	default:
		return fmt.Errorf("%s: quality %.20q is none that this reader knows", name, r.Quality)
	}
	if r.Age < 0 {
		return fmt.Errorf("%s: age %g s", name, r.Age)
	}
	for _, n := range numbers {
		if n < 0 || n > most {
			return fmt.Errorf("%s: value %g, want 0 to %g", name, n, most)
		}
		if n != 0 && !r.Known() {
			return fmt.Errorf("%s: quality %.20q does not go with a value", name, r.Quality)
		}
	}
	return nil
}

func short(text string) error {
	if len(text) > maxText {
		return fmt.Errorf("a text of %d bytes, more than %d", len(text), maxText)
	}
	return nil
}

func (t Throttle) check() error {
	if len(t.Reasons) > maxWords || len(t.Over) > maxWords || len(t.Total) > maxWords {
		return fmt.Errorf("throttle: more than %d reasons or windows", maxWords)
	}
	for _, r := range t.Reasons {
		if err := short(r); err != nil {
			return err
		}
	}
	for _, w := range t.Over {
		if len(w.Shares) > maxWords {
			return fmt.Errorf("throttle: more than %d reasons", maxWords)
		}
		for reason, share := range w.Shares {
			if len(reason) > maxText || share < 0 || share > 1 {
				return fmt.Errorf("throttle: share %g of %.20q, want 0 to 1", share, reason)
			}
		}
	}
	for reason, seconds := range t.Total {
		if len(reason) > maxText || seconds < 0 {
			return fmt.Errorf("throttle: %g s of %.20q", seconds, reason)
		}
	}
	return nil
}

func (m MIG) check() error {
	if err := group("mig", m.Read, 0); err != nil {
		return err
	}
	if len(m.Devices) > MaxMIGDevices {
		return fmt.Errorf("mig: %d devices, more than %d", len(m.Devices), MaxMIGDevices)
	}
	for i, d := range m.Devices {
		err := errors.Join(
			short(d.UUID), short(d.Profile),
			d.MemoryUsed.check(0, math.MaxInt64), d.MemoryTotal.check(0, math.MaxInt64),
			ratios("activity", d.Activity.Read, d.Activity.numbers()...))
		if err == nil && (d.Outside < 0 || d.Outside > d.Processes) {
			err = fmt.Errorf("%d of %d processes outside", d.Outside, d.Processes)
		}
		if err != nil {
			return fmt.Errorf("mig: devices[%d]: %w", i, err)
		}
	}
	return nil
}

func (gs Grants) check() error {
	if err := group("grants", Read{Quality: gs.Quality}, 0); err != nil {
		return err
	}
	if len(gs.List) > MaxGrants {
		return fmt.Errorf("grants: %d, more than %d", len(gs.List), MaxGrants)
	}
	for _, grant := range gs.List {
		if err := errors.Join(short(grant.Alloc), short(grant.Job), short(grant.Task), short(grant.MIG)); err != nil {
			return fmt.Errorf("grants: %w", err)
		}
	}
	return nil
}

func (x XIDs) check() error {
	if err := group("xids", Read{Quality: x.Quality}, 0); err != nil {
		return err
	}
	if len(x.List) > MaxXIDs {
		return fmt.Errorf("xids: %d different ones, more than %d", len(x.List), MaxXIDs)
	}
	for _, e := range x.List {
		switch {
		case e.Count < 0 || e.Age < 0 || e.Relapses < 0:
			return fmt.Errorf("xids: XID %d: a number below 0", e.Code)
		case !slices.Contains(XIDClasses, e.Class):
			return fmt.Errorf("xids: XID %d: class %.20q is none that this reader knows", e.Code, e.Class)
		}
	}
	return nil
}

func (h Health) check() error {
	if h.Verdict != "" && !slices.Contains(Verdicts, h.Verdict) {
		return fmt.Errorf("health: verdict %.20q is none that this reader knows", h.Verdict)
	}
	if !slices.Contains(Actions, h.Action) {
		return fmt.Errorf("health: action %.20q is none that this reader knows", h.Action)
	}
	if len(h.Why) > maxWords {
		return fmt.Errorf("health: %d reasons, more than %d", len(h.Why), maxWords)
	}
	for _, why := range h.Why {
		if err := short(why); err != nil {
			return fmt.Errorf("health: %w", err)
		}
	}
	return nil
}
