package version

import (
	"os"
	"os/exec"
	"runtime/debug"
	"testing"
)

func TestOf(t *testing.T) {
	for want, info := range map[string]debug.BuildInfo{
		"dev":              {Main: debug.Module{Version: "(devel)"}},
		"v0.3.0":           {Main: debug.Module{Version: "v0.3.0"}},
		"dev+0123456789ab": {Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "0123456789abcdef"}}},
		"v0.3.1-0.20260301-0123456789ab": {
			Main:     debug.Module{Version: "v0.3.1-0.20260301-0123456789ab"},
			Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "0123456789abcdef"}},
		},
	} {
		if got := of(&info); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// TestTheBuildSetsIt: the path in the linker's flag is that of the variable.
// This test runs itself, built so.
func TestTheBuildSetsIt(t *testing.T) {
	const told = "v9.8.7"
	if os.Getenv("GPUPOOL_VERSION_TEST") != "" {
		if String() != told {
			t.Errorf("it calls itself %s", String())
		}
		return
	}
	cmd := exec.Command("go", "test", "-count=1", "-run", "^TestTheBuildSetsIt$", "-ldflags", "-X github.com/gpupool/gpupool/internal/version.text="+told, ".")
	cmd.Env = append(os.Environ(), "GPUPOOL_VERSION_TEST=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
