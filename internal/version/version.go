// Package version names the build that runs, for logs, metrics and people.
package version

import (
	"runtime/debug"
	"strings"
)

// text is set by the build:
//
//	-ldflags "-X github.com/gpupool/gpupool/internal/version.text=v1.2.3"
var text string

// String is the version as well as the build knows: what it was told, else
// that of the module, else "dev"; with the commit where one was stamped.
func String() string {
	if text != "" {
		return text
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "dev"
	}
	return of(info)
}

func of(info *debug.BuildInfo) string {
	name := strings.Trim(info.Main.Version, "()")
	if name == "" || name == "devel" {
		name = "dev"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && !strings.Contains(name, s.Value[:min(len(s.Value), 12)]) {
			name += "+" + s.Value[:min(len(s.Value), 12)]
		}
	}
	return name
}
