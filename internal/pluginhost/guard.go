package pluginhost

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/nomad-autoscaler/plugins/apm"
	"github.com/hashicorp/nomad-autoscaler/plugins/base"
	"github.com/hashicorp/nomad-autoscaler/plugins/strategy"
	"github.com/hashicorp/nomad-autoscaler/plugins/target"
	"github.com/hashicorp/nomad-autoscaler/sdk"
)

// guardedSet wraps an implementation in the guard of its type, and names it
// the way the autoscaler dispenses it.
func guardedSet(name string, impl any) (plugin.PluginSet, error) {
	if name == "" {
		return nil, errors.New("pluginhost: Config.Name is empty; it must be the file name of the plugin")
	}
	switch p := impl.(type) {
	case apm.APM:
		g := &apmGuard{baseGuard{p, name, sdk.PluginTypeAPM}, p}
		return plugin.PluginSet{
			sdk.PluginTypeAPM:  &apm.PluginAPM{Impl: g},
			sdk.PluginTypeBase: &base.PluginBase{Impl: g},
		}, nil
	case target.Target:
		g := &targetGuard{baseGuard{p, name, sdk.PluginTypeTarget}, p}
		return plugin.PluginSet{
			sdk.PluginTypeTarget: &target.PluginTarget{Impl: g},
			sdk.PluginTypeBase:   &base.PluginBase{Impl: g},
		}, nil
	case strategy.Strategy:
		g := &strategyGuard{baseGuard{p, name, sdk.PluginTypeStrategy}, p}
		return plugin.PluginSet{
			sdk.PluginTypeStrategy: &strategy.PluginStrategy{Impl: g},
			sdk.PluginTypeBase:     &base.PluginBase{Impl: g},
		}, nil
	default:
		return nil, fmt.Errorf("pluginhost: Config.Plugin of %s is a %T, which is neither an APM, a target nor a strategy", name, impl)
	}
}

// The guards below stand between the autoscaler's gRPC stubs, which follow
// pointers without looking, and the plugin. What goes in has no nil map that
// the plugin may want to write to; what comes out has no nil, no text that
// protobuf refuses, and no number that JSON cannot carry.

type baseGuard struct {
	impl       base.Base
	name, kind string
}

func (g *baseGuard) PluginInfo() (*base.PluginInfo, error) {
	info, err := g.impl.PluginInfo()
	if err != nil {
		return nil, plain(err)
	}
	if info == nil {
		info = &base.PluginInfo{Name: g.name, PluginType: g.kind}
	}
	return info, nil
}

func (g *baseGuard) SetConfig(config map[string]string) error {
	return plain(g.impl.SetConfig(writable(config)))
}

type apmGuard struct {
	baseGuard
	impl apm.APM
}

// Query turns an empty answer into an error: the autoscaler aborts the whole
// policy for both, but only an error says why.
func (g *apmGuard) Query(query string, r sdk.TimeRange) (sdk.TimestampedMetrics, error) {
	points, err := g.impl.Query(query, r)
	if err != nil {
		return nil, plain(err)
	}
	if len(points) == 0 {
		return nil, fmt.Errorf("%s: query %q has no points between %s and %s", g.name, query, r.From.UTC(), r.To.UTC())
	}
	return points, nil
}

func (g *apmGuard) QueryMultiple(query string, r sdk.TimeRange) ([]sdk.TimestampedMetrics, error) {
	series, err := g.impl.QueryMultiple(query, r)
	if err != nil {
		return nil, plain(err)
	}
	return series, nil
}

type targetGuard struct {
	baseGuard
	impl target.Target
}

func (g *targetGuard) Scale(action sdk.ScalingAction, config map[string]string) error {
	action.Canonicalize()
	return plain(g.impl.Scale(action, writable(config)))
}

func (g *targetGuard) Status(config map[string]string) (*sdk.TargetStatus, error) {
	st, err := g.impl.Status(writable(config))
	if err != nil {
		return nil, plain(err)
	}
	if st == nil {
		return nil, fmt.Errorf("%s: Status answered nothing, which is a bug in the plugin", g.name)
	}
	out := *st
	out.Meta = make(map[string]string, len(st.Meta))
	for k, v := range st.Meta {
		out.Meta[validText(k)] = validText(v)
	}
	return &out, nil
}

type strategyGuard struct {
	baseGuard
	impl strategy.Strategy
}

// Run takes nothing for an answer, as the autoscaler does of its own
// strategies, which return nil for "leave it as it is".
func (g *strategyGuard) Run(eval *sdk.ScalingCheckEvaluation, count int64) (*sdk.ScalingCheckEvaluation, error) {
	if eval.Action == nil {
		eval.Action = new(sdk.ScalingAction)
	}
	eval.Action.Canonicalize()
	eval.Check.Strategy.Config = writable(eval.Check.Strategy.Config)

	out, err := g.impl.Run(eval, count)
	if err != nil {
		return nil, plain(err)
	}
	action := sdk.ScalingAction{
		Count:     count,
		Direction: sdk.ScaleDirectionNone,
		Reason:    g.name + " gave no answer, so the count stays as it is",
	}
	if out != nil && out.Action != nil {
		action = *out.Action
	}
	action.Reason = validText(action.Reason)
	action.Meta = encodable(action.Meta)
	return &sdk.ScalingCheckEvaluation{Check: eval.Check, Metrics: eval.Metrics, Action: &action}, nil
}

// plain strips everything from an error but its text and whether it is a
// no-op. A gRPC status deep inside it, from some other client, would otherwise
// become the status of the call, and codes.Aborted means no-op to the host.
func plain(err error) error {
	if err == nil {
		return nil
	}
	var noop *sdk.TargetScalingNoOpError
	if !errors.As(err, &noop) {
		return errors.New(err.Error())
	}
	if noop == nil || noop.Err == nil {
		return sdk.NewTargetScalingNoOpError("nothing to do")
	}
	return sdk.NewTargetScalingNoOpError("%s", err.Error())
}

// writable returns m, or an empty map in place of a nil one.
func writable(m map[string]string) map[string]string {
	if m == nil {
		m = make(map[string]string)
	}
	return m
}

// encodable returns a copy of meta in which values that JSON cannot carry,
// such as an infinite number, are replaced by their text.
func encodable(meta map[string]any) map[string]any {
	out := make(map[string]any, len(meta))
	maps.Copy(out, meta)
	for k, v := range out {
		if _, err := json.Marshal(v); err != nil {
			out[k] = fmt.Sprint(v)
		}
	}
	return out
}

func validText(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
