package pluginhost

import (
	"log/slog"
	"os"

	"github.com/hashicorp/go-hclog"
)

// LogEnv is the environment variable that sets the level of [NewLogger]:
// trace, debug, info, warn, error or off.
const LogEnv = "GPUPOOL_LOG"

// NewLogger returns a logger whose lines the autoscaler reads from the
// plugin's stderr and logs as its own. The autoscaler drops what is below its
// own log_level, so the default is debug: turning on debug there is enough.
func NewLogger(name string) hclog.Logger {
	text := os.Getenv(LogEnv)
	level := hclog.LevelFromString(text)
	if level == hclog.NoLevel {
		level = hclog.Debug
	}
	log := hclog.New(&hclog.LoggerOptions{
		Name:       name,
		Level:      level,
		JSONFormat: true,
	})
	if text != "" && hclog.LevelFromString(text) == hclog.NoLevel {
		log.Warn("unknown log level, using debug; write trace, debug, info, warn, error or off",
			"variable", LogEnv, "value", text)
	}
	return log
}

// Slog is a plugin's log for packages that write to log/slog: their warnings
// and errors, as warnings.
func Slog(log hclog.Logger) *slog.Logger {
	w := log.StandardWriter(&hclog.StandardLoggerOptions{ForceLevel: hclog.Warn})
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{} // the plugin's log has its own
		}
		return a
	}}))
}
