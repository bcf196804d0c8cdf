package fleet

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// serving is an instance that an agent could write.
func serving() Instance {
	v := func(x float64) Value { return Value{Quality: QualityOK, Value: &x, Age: 0.2} }
	took := 43.5
	return Instance{
		ID: "gpupool-instance-a-serve-http", Namespace: "default", Job: "chat", Group: "serve", Task: "serve", Alloc: "a",
		GPUs: []string{"GPU-1"}, Engine: "vllm", Model: "Qwen/Qwen3-8B", Address: "10.0.0.7:23456", Service: "chat-warm",
		State: Serving, For: 12, Why: "3 requests are worked on", Changes: 3, WarmUp: &took,
		Load: map[Signal]Value{Waiting: v(0), Running: v(3), KVUsed: {Quality: QualityStale, Value: new(float64), Age: 5}},
	}
}

func TestInstancesGoThroughJSON(t *testing.T) {
	s := sound("n1")
	i := serving()
	s.Instances = &Instances{Known: true, List: []Instance{i}, WarmUps: []WarmUp{{Model: "m", From: Cold, Count: 2, Median: 40, P95: 43.5}}}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, known := got.Instances.List[0].Fresh(Slots); known {
		t.Error("a signal that is not there is known")
	}
	if v, known := got.Instances.List[0].Fresh(Waiting); !known || v != 0 {
		t.Error("a zero that was read is not known")
	}
}

func TestInstancesThatNoAgentWrites(t *testing.T) {
	for _, tt := range []struct {
		want   string
		change func(*Instances)
	}{
		{"is there twice", func(i *Instances) { i.List = append(i.List, i.List[0]) }},
		{"257 instances", func(i *Instances) { i.List = make([]Instance, MaxInstances+1) }},
		{`state "tepid"`, func(i *Instances) { i.List[0].State = "tepid" }},
		{"want ID, job and allocation", func(i *Instances) { i.List[0].ID = "" }},
		{"a text of 513 bytes", func(i *Instances) { i.List[0].Model = strings.Repeat("x", 513) }},
		{"below zero", func(i *Instances) { i.List[0].For = -1 }},
		{"load.kv_used_ratio: value 43.5", func(i *Instances) { *i.List[0].Load[KVUsed].Value = 43.5 }},
		{"load.waiting_requests: quality", func(i *Instances) { i.List[0].Load[Waiting] = Value{Quality: QualityOK} }},
		{"warm_ups[0]", func(i *Instances) { i.WarmUps = []WarmUp{{Model: "m"}} }},
	} {
		t.Run(tt.want, func(t *testing.T) {
			i := &Instances{List: []Instance{serving()}}
			tt.change(i)
			if err := i.check(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want it to say %q", err, tt.want)
			}
		})
	}
}
