package main

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/device"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
)

// name is the plugin's name, which must be that of its file.
const name = "gpupool-device-fake"

// period is how often the file is read again.
const period = time.Second

// plugin offers the GPUs that a file describes.
type plugin struct {
	log  hclog.Logger
	file string
}

var _ device.DevicePlugin = (*plugin)(nil)

func newPlugin(log hclog.Logger) *plugin { return &plugin{log: log.Named(name)} }

// PluginInfo names the plugin.
func (p *plugin) PluginInfo() (*base.PluginInfoResponse, error) {
	return &base.PluginInfoResponse{
		Type:              base.PluginTypeDevice,
		PluginApiVersions: []string{device.ApiVersion010},
		PluginVersion:     "0.1.0",
		Name:              name,
	}, nil
}

// ConfigSchema declares the one key of the configuration, file.
func (p *plugin) ConfigSchema() (*hclspec.Spec, error) {
	return hclspec.NewObject(map[string]*hclspec.Spec{
		"file": hclspec.NewAttr("file", "string", true),
	}), nil
}

// SetConfig takes the configuration. The file need not exist yet.
func (p *plugin) SetConfig(c *base.Config) error {
	var config struct {
		File string `codec:"file"`
	}
	if err := base.MsgPackDecode(c.PluginConfig, &config); err != nil {
		return fmt.Errorf("%s: decode configuration: %w", name, err)
	}
	if config.File == "" {
		return fmt.Errorf("%s: file is empty: name the file that describes the GPUs", name)
	}
	p.file = config.File
	return nil
}

// Fingerprint sends the devices at once and again whenever the file changes
// them. While the file cannot be read, the last devices stand: Nomad stops
// asking a plugin that ever answered an error.
func (p *plugin) Fingerprint(ctx context.Context) (<-chan *device.FingerprintResponse, error) {
	if p.file == "" {
		return nil, errors.New(name + ": not configured")
	}
	out := make(chan *device.FingerprintResponse)
	go func() {
		defer close(out)
		tick := time.NewTicker(period)
		defer tick.Stop()
		var sent []*device.DeviceGroup
		for first := true; ; first = false {
			groups, err := readGroups(p.file)
			if err != nil {
				p.log.Warn("the last devices stand", "error", err)
			} else if first || !reflect.DeepEqual(groups, sent) {
				select {
				case out <- device.NewFingerprint(groups...):
					sent = groups
				case <-ctx.Done():
					return
				}
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

// Reserve gives a task its GPUs as nomad-device-nvidia does.
func (p *plugin) Reserve(ids []string) (*device.ContainerReservation, error) {
	groups, err := readGroups(p.file)
	if err != nil {
		return nil, err
	}
	healthy := map[string]bool{}
	for _, g := range groups {
		for _, d := range g.Devices {
			healthy[d.ID] = d.Healthy
		}
	}
	for _, id := range ids {
		if !healthy[id] {
			return nil, fmt.Errorf("%s: no healthy GPU %q", name, id)
		}
	}
	return &device.ContainerReservation{
		Envs: map[string]string{"NVIDIA_VISIBLE_DEVICES": strings.Join(ids, ",")},
	}, nil
}

// Stats sends nothing: what these GPUs do is the agent's to tell.
func (p *plugin) Stats(ctx context.Context, _ time.Duration) (<-chan *device.StatsResponse, error) {
	out := make(chan *device.StatsResponse)
	context.AfterFunc(ctx, func() { close(out) })
	return out, nil
}
