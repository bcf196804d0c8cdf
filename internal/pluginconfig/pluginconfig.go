// Package pluginconfig reads the configuration that Nomad Autoscaler hands to
// a plugin: one map of texts, in which the autoscaler's own keys lie among the
// plugin's.
//
//	r := pluginconfig.Read("strategy-predictive", config)
//	c.Pool = r.String("pool", "", "The pool to size.", setting.NotEmpty())
//	c.LeadTime = r.Duration("lead_time", 5*time.Minute,
//		"From power-on to a ready host.", setting.Between(time.Second, time.Hour))
//	return c, r.Err()
//
// Package setting has the types and the rules.
package pluginconfig

import (
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad-autoscaler/plugins/shared"
	"github.com/hashicorp/nomad-autoscaler/sdk"

	"github.com/gpupool/gpupool/internal/setting"
)

// Reader reads one map. Declare every setting, then ask for Err.
type Reader struct {
	*setting.Reader
}

// Read returns a reader of the map that a plugin got: by SetConfig, with a
// target's policy, or with a check's strategy. The plugin's name is what
// errors begin with.
func Read(plugin string, config map[string]string) Reader {
	given := make(map[string]setting.Given, len(config))
	for k, v := range config {
		given[k] = setting.Given{Text: v}
	}
	return Reader{setting.NewReader(setting.Place{Subject: plugin}, given)}
}

// Err returns all mistakes in one error, or nil. A key that was not declared
// is a mistake, unless it is one of the autoscaler's own.
func (r Reader) Err() error {
	r.Finish(IsHostKey)
	return r.Problems().Err()
}

// Doc prints the settings that were declared as a Markdown table, for
// [setting.CheckPage].
func (r Reader) Doc() string { return setting.Markdown(r.Fields()) }

// Credential declares a reference to a credential and resolves it. It is empty
// where none is given, or it cannot be resolved, which is a mistake.
func (r Reader) Credential(key, doc string) string {
	ref := r.Secret(key, doc)
	if ref == "" {
		return ""
	}
	v, err := ref.Resolve()
	if err != nil {
		r.Reject(key, err.Error(), "")
	}
	return v
}

// ListenOff is what [Reader.Listen] answers where nothing is to be served.
const ListenOff = "off"

// Listen declares where a plugin serves its metrics and its health.
func (r Reader) Listen(def, doc string) string {
	return r.String("listen", def, doc, setting.Rule[string]{Text: "host:port, or off", OK: listenable})
}

// listenable reports whether text is an address to listen on, or off.
func listenable(text string) bool {
	if text == ListenOff {
		return true
	}
	_, port, err := net.SplitHostPort(text)
	n, numErr := strconv.ParseUint(port, 10, 16)
	return err == nil && numErr == nil && (n > 0 || port == "0")
}

// hostKeys are the keys that the autoscaler reads from, or writes to, the maps
// that plugins get. Source: nomad-autoscaler v0.5.0 sdk/target.go,
// plugins/shared/util.go, policy/handler.go.
var hostKeys = []string{
	shared.PluginConfigKeyGRPCTimeout,
	"dry-run", // the autoscaler then scales to -1
	sdk.TargetConfigKeyNamespace,
	sdk.TargetConfigKeyJob,
	sdk.TargetConfigKeyTaskGroup,
	sdk.TargetConfigKeyClass,
	sdk.TargetConfigKeyNodePool,
	sdk.TargetConfigKeyDatacenter,
	sdk.TargetConfigKeyDrainDeadline,
	sdk.TargetConfigKeyIgnoreSystemJobs,
	sdk.TargetConfigKeyNodePurge,
	sdk.TargetConfigNodeSelectorStrategy,
	"node_filter_ignore_init",
	"node_filter_ignore_drain",
	"node_filter_ignore_ineligible",
}

// IsHostKey reports whether a key belongs to the autoscaler. All keys that
// begin with "nomad_" do: it merges its own Nomad configuration into every
// plugin's, and newer releases may add to it.
func IsHostKey(key string) bool {
	return strings.HasPrefix(key, "nomad_") || slices.Contains(hostKeys, key)
}
