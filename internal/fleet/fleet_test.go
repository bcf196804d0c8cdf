package fleet

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gpupool/gpupool/internal/mtls"
	"github.com/gpupool/gpupool/internal/mtls/mtlstest"
)

// sound is a snapshot that an agent could write.
func sound(node string) Snapshot {
	v := func(x float64) Value { return Value{Quality: QualityOK, Value: &x, Age: 0.5} }
	age := 0.5
	memory := int64(1 << 30)
	read := Read{Quality: QualityOK, Age: 3}
	half, few, yes := 0.5, int64(3), true
	return Snapshot{
		Schema: Schema,
		Node:   node,
		At:     time.Date(2026, 11, 22, 7, 0, 0, 0, time.UTC),
		Agent:  Agent{Version: "1.2.3", Uptime: 60},
		Driver: Driver{State: DriverOK, Version: "570.86.15", Epoch: 1},
		GPUs: []GPU{{
			Index: 0, UUID: "GPU-1", Name: "NVIDIA H100 80GB HBM3", PCI: "00000000:01:00.0", State: StateOK, Age: &age,
			Busy:       v(0.87),
			BusyOver:   []Window{{Seconds: 60, Mean: 0.5, Max: 1, Coverage: 1}},
			MemoryUsed: v(1 << 30), MemoryReserved: Value{Quality: QualityUnsupported}, MemoryTotal: v(80 << 30),
			Power: v(412), Temperature: v(-3),
			Health:    Health{Verdict: HealthDegraded, Why: []string{"a row waits for a reset"}, Action: ActionReset},
			Activity:  Activity{Read: read, Seconds: 10, SM: &half, DRAM: &half},
			PowerOver: []Window{{Seconds: 60, Mean: 400, Max: 420, Coverage: 1}}, PowerLimit: v(700), Energy: v(1e9),
			MemoryTemperature: Value{Quality: QualityFailed}, Persistence: v(1), PCIeReplays: v(2),
			Clocks: Clocks{Read: read, SM: &age},
			Throttle: Throttle{Read: read, Reasons: []string{"sw_power_cap"},
				Over: []ThrottleWindow{{Seconds: 60, Shares: map[string]float64{"sw_power_cap": 0.5}}}, Total: map[string]float64{"sw_power_cap": 30}},
			Grants:   Grants{Quality: QualityOK, List: []Grant{{Alloc: "7a5b3c1d", Job: "chat", Task: "server", MIG: "MIG-1"}}},
			XIDs:     XIDs{Quality: QualityOK, List: []XID{{Code: 63, Class: XIDNone, Count: 1, Age: 9, Open: true}}},
			ECC:      ECC{Read: read, Enabled: &yes, Corrected: &few, Uncorrected: new(int64)},
			Rows:     Rows{Read: read, Uncorrected: 1, Pending: true},
			Pages:    Pages{Read: Read{Quality: QualityUnsupported}},
			Recovery: Recovery{read, "drain-and-reset"},
			Fabric:   Fabric{read, "completed", 0, "healthy"},
			NVLink:   NVLink{Read: read, Links: 18, Active: 18, Errors: &few},
			MIG: MIG{Read: read, Enabled: true, Devices: []MIGDevice{{UUID: "MIG-1", Profile: "1g.10gb", GPUInstance: 7,
				MemoryUsed: v(1), MemoryTotal: v(2), Activity: Activity{Read: read, SM: &half}, Processes: 1, Outside: 1}}},
			Processes: Processes{Quality: QualityOK, Total: 1, Outside: 1, List: []Process{{PID: 7, Comm: "miner", Memory: &memory, MIG: "MIG-1", Foreign: true}}},
		}},
		Outside: Outside{Known: true, GPUs: 1, Processes: 1},
	}
}

// serve answers every request in one way and returns its address.
func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func answering(t *testing.T, s Snapshot) string {
	return serve(t, func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(s) })
}

func TestGather(t *testing.T) {
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	var followed atomic.Bool
	for _, tt := range []struct {
		node string
		addr string
		err  string // in the error; empty for none
	}{
		{"sound", answering(t, sound("sound")), ""},
		{"other", answering(t, sound("somebody")), `agent of node "somebody"`},
		{"closed", "127.0.0.1:1", "connection refused"},
		{"silent", serve(t, func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}), "deadline exceeded"},
		{"slow", serve(t, func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil { // a byte at a time, for ever
				io.WriteString(w, " ")
				w.(http.Flusher).Flush()
				time.Sleep(10 * time.Millisecond)
			}
		}), "deadline exceeded"},
		{"endless", serve(t, func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"node":"`)
			chunk := strings.Repeat("x", 1<<16)
			for range 100 {
				io.WriteString(w, chunk)
			}
		}), "more than 4194304 bytes"},
		{"redirect", serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != SnapshotPath {
				followed.Store(true)
			}
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		}), "302 Found"},
		{"locked", serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer secret" {
				t.Error("the token was not sent")
			}
			http.Error(w, "", http.StatusUnauthorized)
		}), "bearer token"},
		{"broken", serve(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "", 500) }), "500"},
		{"page", serve(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") }), "not a snapshot"},
		{"address", "127.0.0.1:80/../evil?", "agent of node address"},
	} {
		t.Run(tt.node, func(t *testing.T) {
			t.Parallel()
			before := time.Now()
			timeout := time.Minute // enough on any machine
			if tt.err == "deadline exceeded" {
				timeout = time.Second
			}
			got := Gather(t.Context(), Config{Timeout: timeout, Token: "secret"}, map[string]string{tt.node: tt.addr})
			r, ok := got[tt.node]
			if !ok || len(got) != 1 || r.At.Before(before) || r.At.After(time.Now()) {
				t.Fatalf("Gather = %+v, want one reading of %s", got, tt.node)
			}
			if tt.err == "" {
				if r.Err != nil {
					t.Fatal(r.Err)
				}
				if diff := cmp.Diff(sound(tt.node), r.Snapshot); diff != "" {
					t.Errorf("snapshot differs (-want +got):\n%s", diff)
				}
				return
			}
			if r.Err == nil || !strings.Contains(r.Err.Error(), tt.err) || !strings.Contains(r.Err.Error(), "node "+tt.node) {
				t.Errorf("error is %v, want it to name the node and say %q", r.Err, tt.err)
			}
		})
	}
	if followed.Load() {
		t.Error("a redirect was followed")
	}
}

// TestGatherOverTLS: the agents' certificates are for one name, whatever their
// addresses, and readers go over to a new one by themselves.
func TestGatherOverTLS(t *testing.T) {
	ca := mtlstest.NewCA(t, "ca")
	server := ca.Issue(t, t.TempDir(), Service)
	settings, err := mtls.Server(server, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", settings)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(sound("a"))
	})}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })

	reader := ca.Issue(t, t.TempDir(), "reader")
	over, err := NewTLS(reader, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	agents := map[string]string{"a": l.Addr().String()}
	for range 3 { // over one connection
		if got := Gather(t.Context(), Config{Timeout: time.Minute, TLS: over}, agents)["a"]; got.Err != nil {
			t.Fatal(got.Err)
		}
	}
	if got := Gather(t.Context(), Config{Timeout: time.Minute}, agents)["a"]; got.Err == nil || !strings.Contains(got.Err.Error(), "it may serve TLS") {
		t.Errorf("without TLS: %v, want a hint that it may be wanted", got.Err)
	}
	if _, err := NewTLS(mtls.Files{Cert: reader.Cert}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "TLS to the agents") {
		t.Errorf("NewTLS of half a pair: %v", err)
	}
}

func TestGatherIsBounded(t *testing.T) {
	var now, most atomic.Int64
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer now.Add(-1)
		time.Sleep(5 * time.Millisecond)
		http.Error(w, "", http.StatusTeapot)
	})
	agents := map[string]string{}
	for i := range 200 {
		agents[fmt.Sprint(i)] = addr
	}
	got := Gather(t.Context(), Config{Concurrency: 8, Timeout: 30 * time.Second}, agents)
	if len(got) != 200 {
		t.Errorf("%d readings of 200 agents", len(got))
	}
	if most.Load() > 8 {
		t.Errorf("%d agents were asked at a time, want at most 8", most.Load())
	}
}

func TestGatherEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	got := Gather(ctx, Config{}, map[string]string{"a": answering(t, sound("a"))})
	if got["a"].Err == nil {
		t.Error("an agent was asked after the end")
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(s *Snapshot)
		err    string
	}{
		{"another schema", func(s *Snapshot) { s.Schema = 2 }, "schema 2, want 1"},
		{"an unknown driver state", func(s *Snapshot) { s.Driver.State = "fine" }, `driver.state "fine"`},
		{"more GPUs than there can be", func(s *Snapshot) { s.GPUs = make([]GPU, MaxGPUs+1) }, "65 GPUs"},
		{"more processes than there can be", func(s *Snapshot) { s.GPUs[0].Processes.List = make([]Process, MaxProcesses+1) }, "33 processes"},
		{"more outside than in all", func(s *Snapshot) { s.GPUs[0].Processes.Outside = 2 }, "2 of 1 processes"},
		{"outside without GPUs", func(s *Snapshot) { s.Outside.GPUs = 2 }, "outside: 1 processes on 2 of 1 GPUs"},
		{"negative outside", func(s *Snapshot) { s.Outside.GPUs = -1 }, "outside"},
		{"busier than busy", func(s *Snapshot) { *s.GPUs[0].Busy.Value = 87 }, "busy_ratio: value 87"},
		{"negative memory", func(s *Snapshot) { *s.GPUs[0].MemoryUsed.Value = -1 }, "memory_used_bytes"},
		{"from the future", func(s *Snapshot) { s.GPUs[0].Power.Age = -5 }, "age -5 s"},
		{"ok without a value", func(s *Snapshot) { s.GPUs[0].Power.Value = nil }, "does not go with the value"},
		{"a value of unknown quality", func(s *Snapshot) { s.GPUs[0].Power.Quality = "great" }, "does not go with the value"},
		{"the same GPU twice", func(s *Snapshot) { s.GPUs = append(s.GPUs, s.GPUs[0]) }, "twice"},
		{"more tensor than there is", func(s *Snapshot) { *s.GPUs[0].Activity.SM = 1.5 }, "activity: value 1.5"},
		{"facts of unknown quality", func(s *Snapshot) { s.GPUs[0].ECC.Quality = "great" }, `ecc: quality "great"`},
		{"facts without a quality", func(s *Snapshot) { s.GPUs[0].Rows.Quality = "" }, "does not go with a value"},
		{"facts from the future", func(s *Snapshot) { s.GPUs[0].Fabric.Age = -1 }, "fabric: age -1 s"},
		{"fewer errors than none", func(s *Snapshot) { *s.GPUs[0].ECC.Corrected = -1 }, "ecc: value -1"},
		{"throttled for more than all the time", func(s *Snapshot) { s.GPUs[0].Throttle.Over[0].Shares["x"] = 2 }, `share 2 of "x"`},
		{"throttled for less than no time", func(s *Snapshot) { s.GPUs[0].Throttle.Total["x"] = -2 }, `-2 s of "x"`},
		{"endless reasons", func(s *Snapshot) { s.GPUs[0].Throttle.Reasons = make([]string, 33) }, "throttle: more than 32"},
		{"more MIG devices than there can be", func(s *Snapshot) { s.GPUs[0].MIG.Devices = make([]MIGDevice, 33) }, "mig: 33 devices"},
		{"a MIG device with more outside than in all", func(s *Snapshot) { s.GPUs[0].MIG.Devices[0].Outside = 2 }, "mig: devices[0]: 2 of 1"},
		{"endless grants", func(s *Snapshot) { s.GPUs[0].Grants.List = make([]Grant, 33) }, "grants: 33"},
		{"endless text of a grant", func(s *Snapshot) { s.GPUs[0].Grants.List[0].Job = strings.Repeat("x", 1000) }, "grants: a text of 1000 bytes"},
		{"endless XIDs", func(s *Snapshot) { s.GPUs[0].XIDs.List = make([]XID, 65) }, "xids: 65"},
		{"an XID of unknown class", func(s *Snapshot) { s.GPUs[0].XIDs.List[0].Class = "bad" }, `class "bad"`},
		{"an XID that did not happen", func(s *Snapshot) { s.GPUs[0].XIDs.List[0].Count = -1 }, "below 0"},
		{"an unknown verdict", func(s *Snapshot) { s.GPUs[0].Health.Verdict = "fine" }, `verdict "fine"`},
		{"an unknown action", func(s *Snapshot) { s.GPUs[0].Health.Action = "kick" }, `action "kick"`},
		{"endless reasons of a verdict", func(s *Snapshot) { s.GPUs[0].Health.Why = make([]string, 33) }, "health: 33 reasons"},
		{"endless text of a verdict", func(s *Snapshot) { s.GPUs[0].Health.Why[0] = strings.Repeat("x", 1000) }, "1000 bytes"},
		{"endless text", func(s *Snapshot) { s.GPUs[0].Why = strings.Repeat("x", 1000) }, "1000 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := sound("a")
			tt.change(&s)
			text, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Decode(strings.NewReader(string(text))); err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("Decode: %v, want it to say %q", err, tt.err)
			}
		})
	}
	for _, text := range []string{"", "null", "[]", `{"schema":1}{"schema":1}`, `{"schema":"1"}`, `{"schema":1} x`, `{"gpus":[{"busy_ratio":{"value":NaN}}]}`} {
		if s, err := Decode(strings.NewReader(text)); err == nil {
			t.Errorf("Decode(%q) = %+v, want an error", text, s)
		}
	}
}

// TestDecodeOlder: an agent of an earlier version has fewer fields, and its
// readers do not take them for zero.
func TestDecodeOlder(t *testing.T) {
	got, err := Decode(strings.NewReader(`{"schema":1,"node":"a","driver":{"state":"ok","epoch":1},"gpus":[{"index":0,"uuid":"GPU-1","state":"ok",
		"busy_ratio":{"quality":"ok","value":0.5},"processes":{"quality":"ok","total":0,"outside":0}}],"outside":{"known":true,"gpus":0,"processes":0}}`))
	if err != nil {
		t.Fatal(err)
	}
	g := got.GPUs[0]
	if g.Rows.Known() || g.ECC.Fresh() || g.Energy.Value != nil || g.Health.Verdict != "" || g.XIDs.Quality != "" {
		t.Errorf("GPU is %+v, want nothing known of what was not said", g)
	}
}

// TestDecodeNewer: an agent of a later version adds fields before its readers
// know them.
func TestDecodeNewer(t *testing.T) {
	text, err := json.Marshal(sound("a"))
	if err != nil {
		t.Fatal(err)
	}
	newer := strings.Replace(string(text), `{`, `{"queues":[{"length":3}],`, 1)
	got, err := Decode(strings.NewReader(newer))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sound("a"), got); diff != "" {
		t.Errorf("snapshot differs (-want +got):\n%s", diff)
	}
}

func TestUsable(t *testing.T) {
	s := Snapshot{}
	for _, state := range States {
		s.GPUs = append(s.GPUs, GPU{State: state})
	}
	if n := s.Usable(); n != 2 {
		t.Errorf("Usable of one GPU in each state = %d, want those that are ok and stale", n)
	}
}

// FuzzDecode: whatever an agent sends, the reader lives, and what it accepts
// can be written and read again.
func FuzzDecode(f *testing.F) {
	text, err := json.Marshal(sound("a"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"schema":1,"driver":{"state":"no-gpu"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Decode(strings.NewReader(string(data)))
		if err != nil {
			return
		}
		again, err := json.Marshal(s)
		if err != nil {
			t.Fatalf("accepted what cannot be written: %v", err)
		}
		if _, err := Decode(strings.NewReader(string(again))); err != nil {
			t.Fatalf("refused what it wrote: %v\n%s", err, again)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	s := sound("a")
	for i := range 7 {
		g := s.GPUs[0]
		g.Index, g.UUID = i+1, fmt.Sprintf("GPU-%d", i+2)
		s.GPUs = append(s.GPUs, g)
	}
	text, err := json.Marshal(s)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(strings.NewReader(string(text))); err != nil {
			b.Fatal(err)
		}
	}
}
