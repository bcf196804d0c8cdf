package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/nomad-autoscaler/plugins"
	"github.com/hashicorp/nomad-autoscaler/plugins/apm"
	"github.com/hashicorp/nomad-autoscaler/plugins/base"
	"github.com/hashicorp/nomad-autoscaler/plugins/strategy"
	"github.com/hashicorp/nomad-autoscaler/plugins/target"
	"github.com/hashicorp/nomad-autoscaler/sdk"
)

// The test binary is also the plugin and, for the tests in which the host
// dies, the host: which one is in roleEnv.
const (
	roleEnv  = "PLUGINHOST_TEST_ROLE"  // plugin or host
	kindEnv  = "PLUGINHOST_TEST_KIND"  // apm, target or strategy
	exitEnv  = "PLUGINHOST_TEST_EXIT"  // file that OnExit appends to
	slowEnv  = "PLUGINHOST_TEST_SLOW"  // OnExit never returns
	marchEnv = "PLUGINHOST_TEST_MARCH" // host: calls Status all the time
	infoEnv  = "PLUGINHOST_TEST_INFO"  // what PluginInfo does
	shellEnv = "PLUGINHOST_TEST_SHELL" // a shell stands between host and plugin
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "plugin":
		servePlugin()
	case "host":
		os.Unsetenv(roleEnv) // the plugin inherits the environment, and it wins
		hostUntilKilled()
	default:
		os.Exit(m.Run())
	}
}

func servePlugin() {
	var impl any
	switch os.Getenv(kindEnv) {
	case "apm":
		impl = naughtyAPM{naughty{}}
	case "target":
		impl = naughtyTarget{naughty{}}
	case "strategy":
		impl = naughtyStrategy{naughty{}}
	}
	err := Serve(Config{Name: "naughty", Plugin: impl, OnExit: func(ctx context.Context) {
		if path := os.Getenv(exitEnv); path != "" {
			f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
			if err != nil {
				panic(err)
			}
			fmt.Fprintln(f, "OnExit ran")
			f.Close()
		}
		if os.Getenv(slowEnv) != "" {
			select {}
		}
	}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
}

// hostUntilKilled starts a plugin as the autoscaler does, prints its process
// id and keeps it until somebody kills this process.
func hostUntilKilled() {
	client, raw, err := launch(os.Getenv(kindEnv), nil)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	pid, err := strconv.Atoi(client.ID())
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if os.Getenv(shellEnv) != "" {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("plugin", string(children))
	} else {
		fmt.Println("plugin", pid)
	}
	for os.Getenv(marchEnv) != "" {
		if _, err := raw.(target.Target).Status(map[string]string{"do": "log"}); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	select {}
}

// launch starts this test binary as a plugin with the settings that
// plugins/manager/manager.go (launchExternalPlugin) uses.
func launch(kind string, env []string) (*plugin.Client, any, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.Command(self)
	if os.Getenv(shellEnv) != "" {
		cmd = exec.Command("/bin/sh", "-c", `"$0"; true`, self)
	}
	cmd.Env = append(env, roleEnv+"=plugin", kindEnv+"="+kind)
	set := map[string]plugin.Plugin{sdk.PluginTypeBase: &base.PluginBase{}}
	switch kind {
	case "apm":
		set[kind] = &apm.PluginAPM{}
	case "target":
		set[kind] = &target.PluginTarget{}
	case "strategy":
		set[kind] = &strategy.PluginStrategy{}
	}
	client := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  plugins.Handshake,
		Plugins:          set,
		Cmd:              cmd,
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		Logger:           hostLog,
	})
	rpc, err := client.Client()
	if err != nil {
		client.Kill()
		return nil, nil, err
	}
	raw, err := rpc.Dispense(kind)
	if err != nil {
		client.Kill()
		return nil, nil, err
	}
	return client, raw, nil
}

// naughty is a plugin that does what it is told, and it is told nothing good.
type naughty struct{}

// obey acts on an order that any of the methods got. nil reports whether the
// method is to answer nil.
func (naughty) obey(order string) (answerNil bool, err error) {
	verb, rest, _ := strings.Cut(order, " ")
	switch verb {
	case "panic":
		panic(rest)
	case "panic-nil-map":
		var m map[string]int
		m["x"] = 1 //nolint:staticcheck // that is the point
	case "goexit":
		goexit()
	case "nil":
		return true, nil
	case "error":
		return false, errors.New(rest)
	case "noop":
		return false, fmt.Errorf("pool h100: %w", sdk.NewTargetScalingNoOpError("%s", rest))
	case "typed-nil-noop":
		var e *sdk.TargetScalingNoOpError
		return false, e
	case "foreign-status":
		return false, foreignStatus(rest)
	case "sleep":
		d, err := time.ParseDuration(rest)
		if err != nil {
			return false, err
		}
		time.Sleep(d)
	case "hang":
		select {}
	case "log":
		NewLogger("naughty").Debug("something to say")
	}
	return false, nil
}

func (n naughty) SetConfig(config map[string]string) error {
	order := config["do"]
	config["written"] = "the plugin may write here"
	_, err := n.obey(order)
	return err
}

type naughtyAPM struct{ naughty }

func (n naughtyAPM) PluginInfo() (*base.PluginInfo, error) { return info("apm") }

func (n naughtyAPM) Query(q string, r sdk.TimeRange) (sdk.TimestampedMetrics, error) {
	if count, ok := strings.CutPrefix(q, "points "); ok {
		c, err := strconv.Atoi(count)
		if err != nil {
			return nil, err
		}
		return series(c), nil
	}
	if isNil, err := n.obey(q); isNil || err != nil {
		return nil, err
	}
	return sdk.TimestampedMetrics{{Timestamp: r.To, Value: 1}}, nil
}

func (n naughtyAPM) QueryMultiple(q string, r sdk.TimeRange) ([]sdk.TimestampedMetrics, error) {
	if isNil, err := n.obey(q); isNil || err != nil {
		return nil, err
	}
	return []sdk.TimestampedMetrics{{{Timestamp: r.To, Value: 1}}, nil}, nil
}

type naughtyTarget struct{ naughty }

func (n naughtyTarget) PluginInfo() (*base.PluginInfo, error) { return info("target") }

func (n naughtyTarget) Scale(action sdk.ScalingAction, config map[string]string) error {
	order := config["do"]
	config["written"] = ""
	action.Meta["written"] = true
	_, err := n.obey(order)
	return err
}

func (n naughtyTarget) Status(config map[string]string) (*sdk.TargetStatus, error) {
	order := config["do"]
	config["written"] = ""
	if order == "bad-text" {
		return &sdk.TargetStatus{Ready: true, Count: 7, Meta: map[string]string{"a\xff": "b\xff"}}, nil
	}
	if isNil, err := n.obey(order); isNil || err != nil {
		return nil, err
	}
	return &sdk.TargetStatus{Ready: true, Count: 7}, nil
}

type naughtyStrategy struct{ naughty }

func (n naughtyStrategy) PluginInfo() (*base.PluginInfo, error) { return info("strategy") }

func (n naughtyStrategy) Run(eval *sdk.ScalingCheckEvaluation, count int64) (*sdk.ScalingCheckEvaluation, error) {
	order := eval.Check.Strategy.Config["do"]
	eval.Check.Strategy.Config["written"] = ""
	eval.Action.Meta["points"] = len(eval.Metrics)
	switch order {
	case "nil-action":
		eval.Action = nil
		return eval, nil
	case "nil-meta":
		eval.Action.Meta = nil
		return eval, nil
	case "bad-numbers":
		eval.Action.Meta["quantile"] = infinite()
		eval.Action.Meta["fine"] = 1.5
		eval.Action.Reason = "half a rune \xe2\x82"
	}
	if isNil, err := n.obey(order); isNil || err != nil {
		return nil, err
	}
	eval.Action.Count, eval.Action.Direction = count+1, sdk.ScaleDirectionUp
	return eval, nil
}

func info(kind string) (*base.PluginInfo, error) {
	isNil, err := naughty{}.obey(os.Getenv(infoEnv))
	if isNil || err != nil {
		return nil, err
	}
	return &base.PluginInfo{Name: "naughty", PluginType: kind}, nil
}

func series(n int) sdk.TimestampedMetrics {
	start := time.Unix(1_700_000_000, 0)
	out := make(sdk.TimestampedMetrics, n)
	for i := range out {
		out[i] = sdk.TimestampedMetric{Timestamp: start.Add(time.Duration(i) * time.Second), Value: float64(i)}
	}
	return out
}
