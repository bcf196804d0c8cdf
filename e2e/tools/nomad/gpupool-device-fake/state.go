package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/plugins/device"
	"github.com/hashicorp/nomad/plugins/shared/structs"
)

// What a file says of a GPU when it says nothing: the same as the library's.
const (
	defaultName   = "NVIDIA H100 80GB HBM3"
	defaultMemory = 81559 // MiB
)

const (
	maxFile = 64 << 10 // bytes
	maxGPUs = 64
)

// readGroups reads the file and returns its GPUs as Nomad's device groups, one
// for each product name, in the order of the GPUs. A host whose driver does
// not initialise has none.
func readGroups(path string) ([]*device.DeviceGroup, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	groups, err := parseGroups(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return groups, nil
}

func parseGroups(r io.Reader) ([]*device.DeviceGroup, error) {
	state := map[string]string{}
	lines := bufio.NewScanner(io.LimitReader(r, maxFile))
	for lines.Scan() {
		key, value, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		if key != "" && key[0] != '#' {
			state[key] = strings.TrimSpace(value)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	count, err := number(state, "count", 0)
	if err != nil {
		return nil, err
	}
	if count < 0 || count > maxGPUs {
		return nil, fmt.Errorf("count is %d, not 0 to %d", count, maxGPUs)
	}
	if broken, err := number(state, "init_err", 0); err != nil || broken != 0 {
		return nil, err
	}

	var groups []*device.DeviceGroup
	byName := map[string]*device.DeviceGroup{}
	for i := range count {
		gpu := func(property string) string { return fmt.Sprintf("gpu%d.%s", i, property) }
		name := text(state, gpu("name"), defaultName)
		memory, err := number(state, gpu("mem_total_mib"), defaultMemory)
		if err != nil {
			return nil, err
		}
		lost, err := number(state, gpu("lost"), 0)
		if err != nil {
			return nil, err
		}
		group := byName[name]
		if group == nil {
			group = &device.DeviceGroup{
				Vendor: "nvidia",
				Type:   device.DeviceTypeGPU,
				Name:   name,
				Attributes: map[string]*structs.Attribute{
					"memory": structs.NewIntAttribute(int64(memory), structs.UnitMiB),
				},
			}
			byName[name] = group
			groups = append(groups, group)
		}
		d := &device.Device{
			ID:         text(state, gpu("uuid"), fmt.Sprintf("GPU-fa4e%04x-0000-4000-8000-000000000000", i)),
			Healthy:    lost == 0,
			HwLocality: &device.DeviceLocality{PciBusID: text(state, gpu("pci"), fmt.Sprintf("00000000:%02X:00.0", i+1))},
		}
		if !d.Healthy {
			d.HealthDesc = "GPU is lost"
		}
		group.Devices = append(group.Devices, d)
	}
	return groups, nil
}

func text(state map[string]string, key, absent string) string {
	if v := state[key]; v != "" {
		return v
	}
	return absent
}

func number(state map[string]string, key string, absent int) (int, error) {
	v, ok := state[key]
	if !ok {
		return absent, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		return 0, fmt.Errorf("%s is %q, not a number", key, v)
	}
	return n, nil
}
