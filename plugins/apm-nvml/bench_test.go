package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/sdk"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/history"
	"github.com/gpupool/gpupool/internal/nomad"
	"github.com/gpupool/gpupool/internal/signal"
)

// A host of the benchmarks has eight GPUs, all that an agent tells of each,
// and as many model servers.
func bigSnapshot(node string, i int) fleet.Snapshot {
	v := func(x float64) fleet.Value { return fleet.Value{Quality: fleet.QualityOK, Value: &x, Age: 0.4} }
	ratio := func(k int) *float64 { x := float64((i+k)%100) / 100; return &x }
	n := func(x int64) *int64 { return &x }
	read := fleet.Read{Quality: fleet.QualityOK, Age: 3}
	windows := func(x float64) []fleet.Window {
		return []fleet.Window{{Seconds: 10, Mean: x, Max: x, Coverage: 1}, {Seconds: 60, Mean: x, Max: x, Coverage: 1}, {Seconds: 300, Mean: x, Max: x, Coverage: 1}}
	}
	s := fleet.Snapshot{Schema: fleet.Schema, Node: node, At: time.Now(), Driver: fleet.Driver{State: fleet.DriverOK, Version: "570.86.15"}, Outside: fleet.Outside{Known: true}, Instances: &fleet.Instances{Known: true}}
	for k := range 8 {
		busy := *ratio(k)
		s.GPUs = append(s.GPUs, fleet.GPU{
			Index: k, UUID: fmt.Sprintf("GPU-%06d-%d", i, k), Name: "NVIDIA H100 80GB HBM3", State: fleet.StateOK, Health: fleet.Health{Verdict: fleet.HealthOK},
			Busy: v(busy), BusyOver: windows(busy), SMOver: windows(busy), PowerOver: windows(400),
			Activity:   fleet.Activity{Read: read, SM: ratio(k), SMOccupancy: ratio(k), Tensor: ratio(k), DRAM: ratio(k), Graphics: ratio(k)},
			MemoryUsed: v(40e9), MemoryReserved: v(1e9), MemoryTotal: v(80e9), Power: v(400), PowerLimit: v(700), Energy: v(1e9), Temperature: v(50), MemoryTemperature: v(60),
			Clocks: fleet.Clocks{Read: read}, Throttle: fleet.Throttle{Read: read}, XIDs: fleet.XIDs{Quality: fleet.QualityOK}, ECC: fleet.ECC{Read: read, Corrected: n(0), Uncorrected: n(0)},
			Rows: fleet.Rows{Read: read}, Recovery: fleet.Recovery{Read: read, Action: "none"}, Fabric: fleet.Fabric{Read: read, State: "completed"},
			NVLink: fleet.NVLink{Read: read, Links: 18, Active: 18, Errors: n(0)}, PCIeReplays: v(0), MIG: fleet.MIG{Read: read},
			Processes: fleet.Processes{Quality: fleet.QualityOK, Total: 1, List: []fleet.Process{{PID: 4711, Comm: "vllm", Alloc: "0a1b2c3d", Task: "server"}}},
		})
		load := make(map[fleet.Signal]fleet.Value)
		for _, sig := range fleet.Signals {
			load[sig.Signal] = v(0.5)
		}
		s.Instances.List = append(s.Instances.List, fleet.Instance{
			ID: fmt.Sprint(k), Namespace: "default", Job: "chat", Group: "web", Task: "server", Alloc: fmt.Sprintf("%d-%d", i, k), GPUName: "NVIDIA H100 80GB HBM3",
			Engine: "vllm", Model: "Qwen/Qwen3-8B", Address: "10.0.0.1:8000", State: fleet.Serving, Load: load,
		})
	}
	return s
}

// cpu reports the CPU time of one operation, of which this process's is all:
// unlike the wall's it does not depend on who else uses the machine.
func cpu(b *testing.B, run func()) {
	b.Helper()
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	b.ResetTimer()
	before := used()
	for b.Loop() {
		run()
	}
	b.ReportMetric(float64((used()-before).Microseconds())/1e3/float64(b.N), "cpu-ms/op")
}

var benchQueries = []string{
	`quantile(0.95, gpu_busy_ratio{pool="h100"})`,
	`gpu_idle{pool="h100",node=~"host-0.*"}`,
	`instance_load{job="chat"}`,
}

// park is the demand and the jobs of n hosts, all up.
func park(n int) (nomad.Demand, map[string]nomad.GroupScale) {
	var d nomad.Demand
	for i := range n {
		d.Hosts = append(d.Hosts, nomad.HostDemand{Node: fmt.Sprintf("host-%05d", i), Ready: true, GPUs: 8})
	}
	return d, map[string]nomad.GroupScale{"web": {Wanted: 8 * n, Placed: 8 * n, Running: 8 * n}}
}

// loopbacks is n agents, each on an address of its own.
type loopbacks struct {
	cluster
	addrs map[string]consul.AgentEntry
}

func (l *loopbacks) FindAgents(context.Context) (map[string]consul.AgentEntry, []string, error) {
	return l.addrs, nil, nil
}

// BenchmarkAgents asks a thousand agents over HTTP on loopback, and answers one
// query of what they say: what a new value of a query costs, the agents' share
// of writing it included.
func BenchmarkAgents(b *testing.B) {
	const n = 1000
	c := &loopbacks{addrs: make(map[string]consul.AgentEntry)}
	c.d, c.groups = park(n)
	for i := range n {
		node := fmt.Sprintf("host-%05d", i)
		body, err := json.Marshal(bigSnapshot(node, i))
		if err != nil {
			b.Fatal(err)
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.1:0", 200+i/250, i%250))
		if err != nil {
			b.Fatal(err)
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) })}
		go func() { _ = s.Serve(l) }()
		b.Cleanup(func() { _ = s.Close() })
		c.addrs[node] = consul.AgentEntry{Node: node, Addr: l.Addr().String()}
		if i == 0 {
			b.ReportMetric(float64(len(body)), "B/snapshot")
		}
	}
	for _, text := range benchQueries {
		b.Run(text, func(b *testing.B) {
			book := &book{log: hclog.NewNullLogger(), fine: time.Hour, series: make(map[string]*series)}
			o := &observer{
				log: book.log, book: book, nomad: c, consul: c, tally: newTally(), kick: make(chan struct{}, 1),
				gather: fleet.Config{Timeout: 30 * time.Second}, sight: signal.Sight{Coverage: 0.9, Apart: time.Minute},
			}
			book.added = o.show
			q, err := signal.Parse(text, signal.Known{Pools: []string{"h100"}})
			if err != nil {
				b.Fatal(err)
			}
			s, err := book.of(q, false, time.Now())
			if err != nil {
				b.Fatal(err)
			}
			o.lookAtPool(b.Context(), time.Now(), nomad.PoolSpec{Name: "h100"})
			o.lookAtFleet(b.Context(), time.Now()) // connects
			cpu(b, func() {
				o.lookAtFleet(b.Context(), time.Now())
				if s.err != nil {
					b.Fatal(s.err)
				}
			})
		})
	}
}

// BenchmarkSnapshots makes one query's value out of ten thousand snapshots that
// were recorded, decoded before.
func BenchmarkSnapshots(b *testing.B) {
	const n = 10_000
	d, groups := park(n)
	readings := make(map[string]fleet.Reading, n)
	for i, h := range d.Hosts {
		readings[h.Node] = fleet.Reading{Snapshot: bigSnapshot(h.Node, i)}
	}
	now := time.Now()
	sight := &signal.Sight{
		Coverage: 0.9, Apart: time.Minute, Pools: map[string]signal.Pool{"h100": {At: now, Demand: d}},
		Jobs: map[signal.JobID]signal.Job{{Namespace: "default", Job: "chat"}: {At: now, Groups: groups}},
	}
	b.Run("sorting", func(b *testing.B) {
		cpu(b, func() { sight.Fleet = signal.NewFleet(now, readings) })
	})
	for _, text := range benchQueries {
		b.Run(text, func(b *testing.B) {
			q, err := signal.Parse(text, signal.Known{Pools: []string{"h100"}})
			if err != nil {
				b.Fatal(err)
			}
			cpu(b, func() {
				if r := q.Value(sight); r.Err != nil {
					b.Fatal(r.Err)
				}
			})
		})
	}
}

// BenchmarkDecode reads one snapshot as it came, of which a round has as many
// as there are hosts.
func BenchmarkDecode(b *testing.B) {
	body, err := json.Marshal(bigSnapshot("host-0", 0))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(body)))
	cpu(b, func() {
		if _, err := fleet.Decode(bytes.NewReader(body)); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkWindow answers 28 days: minutes, and six hours of samples of 5 s.
func BenchmarkWindow(b *testing.B) {
	s := recording(b, &archive{})
	s.book.fine = 6 * time.Hour
	one := s.sample(b, noon, -1)
	close(one.first)
	one.record = history.NewRecord(keepDays)
	for at := noon.Add(-28 * 24 * time.Hour); at.Before(noon); at = at.Add(time.Minute) {
		one.record.Add(pointAt(at, math.Round(50+40*math.Sin(float64(at.Unix())/13750))))
	}
	for at := noon.Add(-6 * time.Hour); at.Before(noon); at = at.Add(5 * time.Second) {
		one.fine = append(one.fine, pointAt(at, 50))
	}
	closeOnce(one.tried)
	for _, text := range []string{demandQuery, `max_over_time(demand_gpus{pool="h100"}[1h])`, `quantile_over_time(0.95, demand_gpus{pool="h100"}[1h])`} {
		b.Run(text, func(b *testing.B) {
			b.ReportAllocs()
			cpu(b, func() {
				got, err := s.answer(text, sdk.TimeRange{From: noon.Add(-28 * 24 * time.Hour), To: noon})
				if err != nil || len(got) < 40_000 {
					b.Fatal(len(got), err)
				}
			})
		})
	}
}

func pointAt(at time.Time, v float64) demand.Point { return demand.Point{At: at, Value: v} }
