package ipmi_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/ipmi"
	"github.com/gpupool/gpupool/internal/power/ipmi/ipmitest"
)

// audit asks a simulated BMC.
func audit(t *testing.T, b *ipmitest.BMC) map[string]power.Finding {
	t.Helper()
	d, err := ipmi.New(ipmi.Config{
		Address: b.Addr.String(), Username: ipmitest.Username, Password: ipmitest.Password, CipherSuite: &b.Suite, MinInterval: "0s",
	})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	found := make(map[string]power.Finding)
	for _, f := range d.Audit(ctx) {
		found[f.About] = f
		if f.Level == power.Wrong && f.Mend == "" {
			t.Errorf("%s: wrong, and no mend", f.About)
		}
	}
	return found
}

// TestAuditOfOpenIPMI: ipmi_sim takes cipher suite 0, as ipmitool shows with a
// password that is none, and sessions without authentication.
func TestAuditOfOpenIPMI(t *testing.T) {
	b := ipmitest.OpenIPMI(t)
	if said := b.IpmitoolAs(0, wrongPassword, "chassis", "power", "status"); said != "Chassis Power is off" {
		t.Fatalf("ipmitool -C 0 with a wrong password: %s", said)
	}
	found := audit(t, b)
	if f := found["cipher suite 0"]; f.Level != power.Wrong || !strings.Contains(f.What, "accepted") {
		t.Errorf("got %+v", f)
	}
	if f := found["logins"]; f.Level != power.Wrong || !strings.Contains(f.What, "IPMI 1.5") {
		t.Errorf("got %+v", f)
	}
	if f := found["clock"]; f.Level != power.Warning || !strings.Contains(f.What, "not set") {
		t.Errorf("got %+v", f)
	}
}

// TestAuditOfTheReference: go-ipmi's BMC refuses cipher suite 0, says that it
// allows logins without a name, and has no clock.
func TestAuditOfTheReference(t *testing.T) {
	found := audit(t, ipmitest.Reference(t))
	if f := found["cipher suite 0"]; f.Level != power.Good || !strings.Contains(f.What, "refused") {
		t.Errorf("got %+v", f)
	}
	if f := found["logins"]; f.Level != power.Wrong || !strings.Contains(f.What, "without a user name") {
		t.Errorf("got %+v", f)
	}
	if f, told := found["clock"]; told {
		t.Errorf("got %+v", f)
	}
}

// TestAuditOfTheMute: a BMC that does not answer is not called safe, nor waited
// for beyond the deadline.
func TestAuditOfTheMute(t *testing.T) {
	b := ipmitest.OpenIPMI(t)
	b.Hang()
	d, err := ipmi.New(ipmi.Config{Address: b.Addr.String(), Username: ipmitest.Username, Password: ipmitest.Password, CipherSuite: &b.Suite})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	began := time.Now()
	for _, f := range d.Audit(ctx) {
		if f.Level != power.Warning || !strings.Contains(f.What, "not known") {
			t.Errorf("got %+v", f)
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}
