package redfishtest_test

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power/redfish/redfishtest"
)

// run runs a client that is not ours, and returns what it printed.
func run(t *testing.T, pkg, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is not on PATH, and this test is about it: apt-get install %s, or run `make tools`", name, pkg)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	// Proxies have no way to loopback, and Python's requests prefers the CA of
	// its environment to the one that it is told.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(strings.ToUpper(v), "=")
		return strings.HasSuffix(name, "_PROXY") || strings.HasSuffix(name, "_CA_BUNDLE")
	})
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s of the package %s (apt-get install %[2]s, or `make tools`): %[3]v\n%[4]s", name, pkg, err, out)
	}
	return string(out)
}

// DMTF's redfishtool finds the system, reads its power and changes it.
func TestRedfishtool(t *testing.T) {
	for _, auth := range []string{"Basic", "Session"} {
		t.Run(auth, func(t *testing.T) {
			t.Parallel()
			s := redfishtest.Start(t, redfishtest.Options{})
			tool := func(args ...string) string {
				return run(t, "redfishtool", "redfishtool", append([]string{
					"-r", strings.TrimPrefix(s.URL, "https://"), "-u", redfishtest.Username, "-p", redfishtest.Password,
					"-S", "Always", "-A", auth, "Systems", "-F"}, args...)...)
			}
			reads := func(want string) {
				t.Helper()
				if out := tool("get", "-P", "PowerState"); !strings.Contains(out, `"PowerState": "`+want+`"`) {
					t.Errorf("redfishtool reads %s, want %s", out, want)
				}
			}
			reads("Off")
			tool("reset", "On")
			if s.Power() != pool.PowerOn {
				t.Error("the chassis is off after redfishtool's On")
			}
			reads("On")
			tool("reset", "GracefulShutdown")
			reads("Off")
			tool("reset", "On")
			tool("reset", "ForceOff")
			reads("Off")
			if got := strings.Join(s.Resets(), " "); got != "On GracefulShutdown On ForceOff" {
				t.Errorf("the host carried out %s", got)
			}
			if s.Sessions() != 0 {
				t.Errorf("%d sessions are open", s.Sessions())
			}
		})
	}
}

// debianPython is the interpreter that Debian's Python packages are for. One
// that stands before it on PATH does not have them.
const debianPython = "/usr/bin/python3"

// OpenStack's sushy does, verifying the certificate, and sees the same resets,
// tasks and errors as the driver.
func TestSushy(t *testing.T) {
	const script = `
import sys, sushy
url, ca, kind = sys.argv[1:4]
auth = sushy.auth.BasicAuth if kind == "basic" else sushy.auth.SessionAuth
s = sushy.Sushy(url, auth=auth(username="` + redfishtest.Username + `", password="` + redfishtest.Password + `"), verify=ca)
y = s.get_system(s.get_system_collection().members_identities[0])
print("identity", y.identity)
print("power", y.power_state.value)
print("resets", " ".join(sorted(r.value for r in y.get_allowed_reset_system_values())))
for what in sys.argv[4:]:
    try:
        y.reset_system(sushy.ResetType(what))
        y.refresh(force=True)
        print(what, y.power_state.value)
    except sushy.exceptions.HTTPError as e:
        print(what, "error", e.status_code)
`
	for _, auth := range []string{"basic", "session"} {
		t.Run(auth, func(t *testing.T) {
			t.Parallel()
			s := redfishtest.Start(t, redfishtest.Options{Systems: []string{"437XR1138R2"}})
			out := run(t, "python3-sushy", debianPython, "-W", "ignore", "-c", script, s.URL, s.CAFile, auth, "On", "GracefulShutdown", "On", "ForceOff")
			want := []string{
				"identity 437XR1138R2", "power Off",
				"resets ForceOff ForceRestart GracefulRestart GracefulShutdown Nmi On PushPowerButton",
				"On On", "GracefulShutdown Off", "On On", "ForceOff Off",
			}
			if got := strings.TrimSpace(out); got != strings.Join(want, "\n") {
				t.Errorf("sushy says\n%s\nwant\n%s", got, strings.Join(want, "\n"))
			}
			if got := strings.Join(s.Resets(), " "); got != "On GracefulShutdown On ForceOff" {
				t.Errorf("the host carried out %s", got)
			}
		})
	}
	t.Run("conflict", func(t *testing.T) {
		t.Parallel()
		s := redfishtest.Start(t, redfishtest.Options{})
		s.Refuse(409, "Base.1.18.ResourceInUse", "in use")
		out := run(t, "python3-sushy", debianPython, "-W", "ignore", "-c", script, s.URL, s.CAFile, "basic", "On")
		if !strings.Contains(out, "On error 409") {
			t.Errorf("sushy says %s", out)
		}
	})
}
