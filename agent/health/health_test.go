package health_test

import (
	"strings"
	"testing"

	"github.com/gpupool/gpupool/agent/health"
	"github.com/gpupool/gpupool/internal/fleet"
)

var (
	ok    = fleet.Read{Quality: fleet.QualityOK}
	stale = fleet.Read{Quality: fleet.QualityStale, Age: 200}
	lost  = fleet.Read{Quality: fleet.QualityLost}
)

// open is an XID that no reset has ended yet.
func open(xid, relapses int) fleet.XIDs {
	return fleet.XIDs{Quality: fleet.QualityOK, List: []fleet.XID{
		{Code: xid, Class: health.Find(xid).Class, Count: 1, Open: true, Relapses: relapses},
	}}
}

func throttled(reason string, share float64) fleet.Throttle {
	return fleet.Throttle{Read: ok, Over: []fleet.ThrottleWindow{{Seconds: 60, Shares: map[string]float64{reason: share}}}}
}

func TestJudge(t *testing.T) {
	three, none := int64(3), int64(0)
	for _, tt := range []struct {
		name    string
		gpu     fleet.GPU
		verdict fleet.Verdict
		action  fleet.Action
		why     string // in the reasons
	}{
		{"nothing known but that it answers", fleet.GPU{State: fleet.StateOK}, fleet.HealthOK, "", ""},
		{"a few samples missed", fleet.GPU{State: fleet.StateStale, Why: "time-out"}, fleet.HealthOK, "", ""},
		{"not sampled yet", fleet.GPU{State: fleet.StateUnknown}, fleet.HealthUnknown, "", "not sampled"},
		{"all is well", fleet.GPU{State: fleet.StateOK, Recovery: fleet.Recovery{Read: ok, Action: "none"}, Rows: fleet.Rows{Read: ok, Uncorrected: 2},
			ECC: fleet.ECC{Read: ok, Corrected: &three, Uncorrected: &none}, Fabric: fleet.Fabric{Read: ok, State: "completed", Health: "healthy"},
			Pages: fleet.Pages{Read: fleet.Read{Quality: fleet.QualityUnsupported}}, Throttle: throttled("sw_power_cap", 1)}, fleet.HealthOK, "", ""},

		{"lost", fleet.GPU{State: fleet.StateLost, Why: "fell off the bus"}, fleet.HealthFailed, fleet.ActionCycle, "lost: fell off the bus"},
		{"lost until a reset", fleet.GPU{State: fleet.StateLost, Why: "needs a reset", Recovery: fleet.Recovery{Read: ok, Action: "reset"}}, fleet.HealthFailed, fleet.ActionReset, "lost: needs"},
		{"unresponsive", fleet.GPU{State: fleet.StateUnresponsive, Why: "hangs"}, fleet.HealthFailed, fleet.ActionCycle, "unresponsive: hangs"},

		{"the driver wants a reset", fleet.GPU{State: fleet.StateOK, Recovery: fleet.Recovery{Read: ok, Action: "reset"}}, fleet.HealthFailed, fleet.ActionReset, "asks for reset"},
		{"the driver wants a reboot", fleet.GPU{State: fleet.StateOK, Recovery: fleet.Recovery{Read: stale, Action: "reboot"}}, fleet.HealthFailed, fleet.ActionCycle, "reboot"},
		{"the driver wants a reset in time", fleet.GPU{State: fleet.StateOK, Recovery: fleet.Recovery{Read: ok, Action: "drain-and-reset"}}, fleet.HealthDegraded, fleet.ActionReset, "drain-and-reset"},
		{"the driver wants what is newer than the agent", fleet.GPU{State: fleet.StateOK, Recovery: fleet.Recovery{Read: ok, Action: "17"}}, fleet.HealthDegraded, "", "asks for 17"},
		{"what the driver wanted before the GPU was lost", fleet.GPU{State: fleet.StateOK, Recovery: fleet.Recovery{Read: lost, Action: "reboot"}}, fleet.HealthOK, "", ""},

		{"a row is pending", fleet.GPU{State: fleet.StateOK, Rows: fleet.Rows{Read: ok, Pending: true}}, fleet.HealthDegraded, fleet.ActionReset, "next reset"},
		{"no spare row left", fleet.GPU{State: fleet.StateOK, Rows: fleet.Rows{Read: ok, Pending: true, Failed: true}}, fleet.HealthFailed, fleet.ActionRepair, "could not be replaced"},
		{"a page is pending", fleet.GPU{State: fleet.StateOK, Pages: fleet.Pages{Read: ok, Pending: true}}, fleet.HealthDegraded, fleet.ActionReset, "page"},
		{"uncorrectable errors", fleet.GPU{State: fleet.StateOK, ECC: fleet.ECC{Read: ok, Uncorrected: &three}}, fleet.HealthDegraded, fleet.ActionReset, "3 uncorrectable"},

		{"a killed program", fleet.GPU{State: fleet.StateOK, XIDs: open(45, 9)}, fleet.HealthOK, "", ""},
		{"news", fleet.GPU{State: fleet.StateOK, XIDs: open(63, 0)}, fleet.HealthOK, "", ""},
		{"an error that a reset ends", fleet.GPU{State: fleet.StateOK, XIDs: open(119, 1)}, fleet.HealthFailed, fleet.ActionReset, "XID 119: the GPU's system processor"},
		{"and that comes back", fleet.GPU{State: fleet.StateOK, XIDs: open(119, 2)}, fleet.HealthFailed, fleet.ActionRepair, "back again after 2 resets"},
		{"an error that a power cycle ends", fleet.GPU{State: fleet.StateOK, XIDs: open(79, 0)}, fleet.HealthFailed, fleet.ActionCycle, "XID 79"},
		{"a loose cable", fleet.GPU{State: fleet.StateOK, XIDs: open(54, 0)}, fleet.HealthFailed, fleet.ActionRepair, "power cable"},
		{"an error of the future", fleet.GPU{State: fleet.StateOK, XIDs: open(9999, 0)}, fleet.HealthDegraded, "", "no rule"},
		{"an error that a reset ended", fleet.GPU{State: fleet.StateOK, XIDs: fleet.XIDs{Quality: fleet.QualityOK, List: []fleet.XID{
			{Code: 95, Class: fleet.XIDReset, Count: 4}}}}, fleet.HealthOK, "", ""},

		{"not in the fabric yet", fleet.GPU{State: fleet.StateOK, Fabric: fleet.Fabric{Read: ok, State: "in-progress"}}, fleet.HealthDegraded, "", "in-progress"},
		{"refused by the fabric", fleet.GPU{State: fleet.StateOK, Fabric: fleet.Fabric{Read: ok, State: "completed", Status: 999}}, fleet.HealthFailed, "", "NVML 999"},
		{"in a fabric that limps", fleet.GPU{State: fleet.StateOK, Fabric: fleet.Fabric{Read: ok, State: "completed", Health: "limited-capacity"}}, fleet.HealthDegraded, "", "limited-capacity"},
		{"no fabric", fleet.GPU{State: fleet.StateOK, Fabric: fleet.Fabric{Read: ok, State: "unsupported"}}, fleet.HealthOK, "", ""},

		{"hot for a moment", fleet.GPU{State: fleet.StateOK, Throttle: throttled("hw_thermal", 0.4)}, fleet.HealthOK, "", ""},
		{"hot for long", fleet.GPU{State: fleet.StateOK, Throttle: throttled("hw_thermal", 0.75)}, fleet.HealthDegraded, "", "hw_thermal) for 75 % of the last 60 s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := health.Judge(tt.gpu)
			if h.Verdict != tt.verdict || h.Action != tt.action || !strings.Contains(strings.Join(h.Why, "; "), tt.why) || (tt.why == "") != (h.Why == nil) {
				t.Errorf("Judge = %+v, want %s, action %q, because of %q", h, tt.verdict, tt.action, tt.why)
			}
		})
	}
}

// TestTheWorstCounts: of several findings, the worst verdict comes first, and
// the strongest action whoever asked for it.
func TestTheWorstCounts(t *testing.T) {
	h := health.Judge(fleet.GPU{
		State:    fleet.StateOK,
		Throttle: throttled("hw_power_brake", 1),
		Rows:     fleet.Rows{Read: ok, Pending: true},
		XIDs:     open(79, 0),
		Recovery: fleet.Recovery{Read: ok, Action: "reset"},
	})
	if h.Verdict != fleet.HealthFailed || h.Action != fleet.ActionCycle || len(h.Why) != 4 ||
		!strings.Contains(h.Why[0], "asks for reset") || !strings.Contains(h.Why[1], "XID 79") {
		t.Errorf("Judge = %+v, want what failed first, and a power cycle", h)
	}
}

func TestWhyIsBounded(t *testing.T) {
	var many fleet.XIDs
	for xid := range fleet.MaxXIDs {
		many.List = append(many.List, fleet.XID{Code: 10000 + xid, Class: fleet.XIDUnknown, Open: true})
	}
	if h := health.Judge(fleet.GPU{State: fleet.StateOK, XIDs: many}); len(h.Why) != 16 {
		t.Errorf("%d reasons, want 16", len(h.Why))
	}
}

func TestRules(t *testing.T) {
	before := 0
	for _, r := range health.Rules {
		if r.XID <= before {
			t.Errorf("XID %d has two rules, or is out of order", r.XID)
		}
		before = r.XID
		if r.What == "" || r.Class == fleet.XIDUnknown {
			t.Errorf("the rule of XID %d is %+v", r.XID, r)
		}
		if health.Find(r.XID) != r {
			t.Errorf("Find(%d) = %+v, want %+v", r.XID, health.Find(r.XID), r)
		}
	}
	for _, xid := range []int{-1, 0, 1, 1 << 30} {
		if c := health.Find(xid).Class; c != fleet.XIDUnknown {
			t.Errorf("XID %d is of class %s, want unknown", xid, c)
		}
	}
}
