package health

import (
	"cmp"
	"slices"

	"github.com/gpupool/gpupool/internal/fleet"
)

// Rule is what an XID means.
type Rule struct {
	XID   int
	Class fleet.XIDClass
	What  string
}

// Rules are the XIDs that the agent has a rule for, by number. They follow the
// immediate actions of NVIDIA's Xid catalog
// (docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html), with these
// exceptions. 63 and 94 need a reset only if a row is pending, which the driver
// tells apart. 109 and 108 are commonly the application's doing (NVIDIA's
// k8s-device-plugin ignores 109 too), and where they are not, the driver's
// recovery action says so. 157 and 161 show in what the driver tells about
// rows. What the catalog wants to be reported to NVIDIA has no rule here and is
// unknown, unless it is plainly a matter for hands.
var Rules = sorted(
	class(fleet.XIDApplication,
		entry{8, "the GPU stopped working for a program"},
		entry{11, "a corrupted stream of commands"},
		entry{13, "an exception in a kernel, as from an array that is out of bounds"},
		entry{25, "an illegal notification by a program"},
		entry{31, "an illegal memory access by a program"},
		entry{32, "a corrupted push buffer"},
		entry{39, "a fault in a copy engine"}, entry{40, "a fault in a copy engine"}, entry{41, "a fault in a copy engine"},
		entry{43, "a program's channel was reset after its own fault"},
		entry{45, "a program's channels were cleaned up early, as when it is killed"},
		entry{60, "a fault in the security engine"},
		entry{68, "a fault in a video decoder"},
		entry{69, "a command of the wrong class by a program"},
		entry{70, "a fault in a copy engine"}, entry{71, "a fault in a copy engine"}, entry{72, "a fault in a copy engine"},
		entry{75, "a fault in a copy engine"}, entry{76, "a fault in a copy engine"}, entry{77, "a fault in a copy engine"},
		entry{80, "corrupted data in a push buffer"},
		entry{82, "a fault in an image decoder"},
		entry{83, "a fault in a video decoder"}, entry{84, "a fault in a video decoder"},
		entry{85, "a fault in a copy engine"},
		entry{86, "a fault in the optical flow engine"},
		entry{88, "a fault in a video decoder"}, entry{89, "a fault in a video decoder"},
		entry{94, "an uncorrectable memory error that ended one program and no other"},
		entry{108, "a remote memory access that no peer answers for"},
		entry{109, "a program did not let go of the GPU in time"},
		entry{137, "a remote memory access that a peer refused"},
	),
	class(fleet.XIDNone,
		entry{14, "a test of the reporting itself"},
		entry{37, "a command that the firmware does not know"},
		entry{38, "the firmware's watchdog"},
		entry{44, "a fault while contexts were switched"},
		entry{63, "a memory row or page was marked for replacement"},
		entry{66, "a program touched a register that is not its own"}, entry{67, "a program touched a register that is not its own"},
		entry{92, "many correctable memory errors"},
		entry{93, "the board's memory for records wears out"},
		entry{106, "a test message of the management bus"}, entry{107, "a test message of the management bus"},
		entry{121, "an error on the link to the CPU that was corrected"},
		entry{141, "an error on the fast path of a channel"},
		entry{152, "a memory fault of the deep learning accelerator"}, entry{153, "the deep learning accelerator took too long"},
		entry{154, "the driver changed its advice, which the recovery action shows"},
		entry{157, "a resource could not be retired, which the rows show"},
		entry{161, "a channel could not be retired"},
	),
	class(fleet.XIDReset,
		entry{46, "the GPU stopped working"},
		entry{48, "an uncorrectable memory error"},
		entry{62, "the power controller halted"},
		entry{64, "a memory row or page could not be marked for replacement"},
		entry{74, "an NVLink error"},
		entry{95, "an uncorrectable memory error that may have reached every program"},
		entry{110, "a security fault"},
		entry{119, "the GPU's system processor does not answer"},
		entry{120, "the GPU's system processor failed"},
		entry{136, "a link did not train"},
		entry{140, "an uncorrectable memory error that escaped containment"},
		entry{143, "the GPU did not start"},
		entry{144, "an NVLink error"}, entry{145, "an NVLink error"}, entry{146, "an NVLink error"}, entry{147, "an NVLink error"},
		entry{148, "an NVLink error"}, entry{149, "an NVLink error"}, entry{150, "an NVLink error"}, entry{155, "an NVLink error"},
		entry{156, "a part of the GPU was retired, from the next reset on"},
		entry{158, "an operation of the GPU never ended"},
		entry{162, "the power smoothing failed"},
	),
	class(fleet.XIDCycle,
		entry{79, "the GPU fell off the bus"},
		entry{151, "the keys of a confidential machine could not be changed"},
		entry{160, "a memory channel was retired, from the next boot on"},
	),
	class(fleet.XIDReplace,
		entry{54, "a power cable is not connected"},
		entry{57, "the memory's link did not train"},
		entry{58, "the memory failed"},
	),
)

type entry struct {
	xid  int
	what string
}

func class(c fleet.XIDClass, entries ...entry) []Rule {
	rules := make([]Rule, len(entries))
	for i, e := range entries {
		rules[i] = Rule{e.xid, c, e.what}
	}
	return rules
}

func sorted(groups ...[]Rule) []Rule {
	rules := slices.Concat(groups...)
	slices.SortFunc(rules, func(a, b Rule) int { return cmp.Compare(a.XID, b.XID) })
	return rules
}

// Find is the rule of an XID; one without a rule is [fleet.XIDUnknown].
func Find(xid int) Rule {
	i, found := slices.BinarySearchFunc(Rules, xid, func(r Rule, xid int) int { return cmp.Compare(r.XID, xid) })
	if !found {
		return Rule{xid, fleet.XIDUnknown, "the agent has no rule for it; see NVIDIA's Xid catalog"}
	}
	return Rules[i]
}
