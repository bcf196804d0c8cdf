package signal

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gpupool/gpupool/internal/demand"
)

var known = Known{Pools: []string{"a100", "h100"}, Queues: []string{"emails", "tasks"}}

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		`demand_gpus{pool="h100"}`:                                              `demand_gpus{pool="h100"}`,
		` queued_gpus { pool = 'a100' } `:                                       `queued_gpus{pool="a100"}`,
		`{__name__="allocated_gpus",pool="a100"}`:                               `allocated_gpus{pool="a100"}`,
		`(demand_gpus{pool="h100",})`:                                           `demand_gpus{pool="h100"}`,
		`sum(demand_gpus{pool="h100"})`:                                         `demand_gpus{pool="h100"}`,
		`queued_gpus{pool="h100",model=""}`:                                     `queued_gpus{pool="h100",model=""}`,
		`gpu_busy_ratio{pool="h100"}`:                                           `avg(gpu_busy_ratio{pool="h100"})`,
		`quantile(0.95, gpu_busy_ratio{pool="h100"})`:                           `quantile(0.95, gpu_busy_ratio{pool="h100"})`,
		`count(gpu_idle{pool="h100",node=~"gpu-[12]"})`:                         `count(gpu_idle{pool="h100",node=~"gpu-[12]"})`,
		`gpu_power_watts{model!="L4",node!~"x.*",pool="h100"}`:                  `sum(gpu_power_watts{pool="h100",model!="L4",node!~"x.*"})`,
		`instance_load{job="chat"}`:                                             `sum(instance_load{job="chat",namespace="default"})`,
		`avg(instance_load{namespace="ml",job="chat"})`:                         `avg(instance_load{job="chat",namespace="ml"})`,
		`instances{job="chat",state="warming"}`:                                 `sum(instances{job="chat",namespace="default",state="warming"})`,
		`queue_depth{source="tasks"} > 5`:                                       `queue_depth{source="tasks"} > 5`,
		`queue_depth{source="tasks"}`:                                           `queue_depth{source="tasks"}`,
		`sum(instance_demand{job="chat"}, queue_depth{source="tasks"})`:         `sum(sum(instance_demand{job="chat",namespace="default"}), queue_depth{source="tasks"})`,
		`max(queue_depth{source="tasks"}, queue_depth{source="emails"}) > 2`:    `max(queue_depth{source="tasks"}, queue_depth{source="emails"}) > 2`,
		`max_over_time(instance_load{job="chat"}[5m])`:                          `max_over_time(sum(instance_load{job="chat",namespace="default"})[5m0s])`,
		`quantile_over_time(0.9, quantile(0.5, gpu_sm_ratio{pool="h100"})[1h])`: `quantile_over_time(0.9, quantile(0.5, gpu_sm_ratio{pool="h100"})[1h0m0s])`,
		`avg_over_time((queue_depth{source="tasks"} > 5)[90s:])`:                `avg_over_time(queue_depth{source="tasks"} > 5[1m30s])`,
		"demand_gpus{pool=\"h100\"} # for the hosts":                            `demand_gpus{pool="h100"}`,
	} {
		q, err := Parse(text, known)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := q.String(); got != want {
			t.Errorf("%s\n got %s\nwant %s", text, got, want)
		}
	}
}

// A mistake is answered with its place and what was probably meant.
func TestMistakes(t *testing.T) {
	for _, tt := range []struct {
		text   string
		column int
		what   string
		mend   string
	}{
		{`demand_gpu{pool="h100"}`, 1, `no signal "demand_gpu"`, `did you mean "demand_gpus"?`},
		{`quantile(0.9, gpu_bsy_ratio{pool="h100"})`, 15, `no signal "gpu_bsy_ratio"`, `did you mean "gpu_busy_ratio"?`},
		{`demand_gpus{pool="h10"}`, 18, `no pool "h10"`, `did you mean "h100"?`},
		{`queue_depth{source="task"}`, 20, `no queue "task"`, `did you mean "tasks"?`},
		{`demand_gpus`, 1, "needs the label pool", `write demand_gpus{pool="a100"}`},
		{`instance_load{group="web"}`, 1, "needs the label job", `write instance_load{job="NAME"}`},
		{`{pool="h100"}`, 0, "no signal is named", `demand_gpus{pool="a100"}`},
		{`{}`, 0, "no label at all", `demand_gpus{pool="a100"}`},
		{`demand_gpus{pool="h100",host="x"}`, 25, `no label "host"`, "known are pool"},
		{`gpu_idle{pool="h100",nod="x"}`, 22, `no label "nod"`, `did you mean "node"?`},
		{`gpu_idle{pool="h100",state="x"}`, 22, `no label "state"`, "known are gpu, model, node, pool"},
		{`demand_gpus{pool=~"h.*"}`, 13, "only = is understood", ""},
		{`demand_gpus{pool="h100",pool="a100"}`, 30, "twice", "a query of its own"},
		{`gpu_idle{pool="h100",node="a",node="b"}`, 22, "twice", `=~"a|b"`},
		{`demand_gpus{pool="h100" or pool="a100"}`, 25, "`or`", ""},
		{`sume(demand_gpus{pool="h100"})`, 1, `no function "sume"`, `did you mean "sum"?`},
		{`rate(demand_gpus{pool="h100"}[5m])`, 1, `no function "rate"`, "known are avg"},
		{`stddev(gpu_busy_ratio{pool="h100"})`, 1, `no function "stddev"`, "quantile_over_time"},
		{`sum(gpu_busy_ratio{pool="h100"}) by (node)`, 34, "makes several series", "a query of its own"},
		{`sum(gpu_busy_ratio{pool="h100"}) limit 1`, 34, "limit is not understood", ""},
		{`sum(max_over_time(gpu_idle{pool="h100"}[5m]))`, 5, "has to stand around all", "max_over_time(sum("},
		{`sum(gpu_idle{pool="h100"}[5m])`, 26, "needs a function around", "max_over_time(sum("},
		{`demand_gpus{pool="h100"}[5m]`, 25, "needs a function around", ""},
		{`max_over_time(demand_gpus{pool="h100"})`, 1, "has no window", `demand_gpus{pool="a100"}[5m]`},
		{`max_over_time(demand_gpus{pool="h100"}[30d])`, 39, "between 1s and 24h", ""},
		{`max_over_time(demand_gpus{pool="h100"}[5m:1m])`, 39, "a resolution", ""},
		{`max_over_time(demand_gpus{pool="h100"}[5m] offset 1h)`, 39, "offset", "query_window_offset"},
		{`demand_gpus{pool="h100"} offset 5m`, 0, "offset", "query_window_offset"},
		{`quantile_over_time(demand_gpus{pool="h100"}[5m])`, 1, "takes a number and a series", ""},
		{`quantile(95, gpu_idle{pool="h100"})`, 1, "not a number from 0 to 1", "quantile(0.95"},
		{`quantile(0.9, demand_gpus{pool="h100"})`, 1, "one value", "leave it out"},
		{`quantile(gpu_idle{pool="h100"})`, 1, "takes a number and a series", ""},
		{`count(demand_gpus{pool="h100"})`, 1, "one value", "leave it out"},
		{`sum(sum(gpu_idle{pool="h100"}))`, 5, "within another", ""},
		{`avg(gpu_idle{pool="h100"}, gpu_idle{pool="a100"})`, 1, "avg of several", "sum and max are"},
		{`demand_gpus{pool="h100"} or queued_gpus{pool="h100"}`, 26, "operator or", ""},
		{`demand_gpus{pool="h100"} + queued_gpus{pool="h100"}`, 26, "operator +", ""},
		{`demand_gpus{pool="h100"} < 5`, 26, "operator <", "> NUMBER"},
		{`demand_gpus{pool="h100"} > -1`, 26, "operator >", ""},
		{`5 < demand_gpus{pool="h100"}`, 3, "operator <", ""},
		{`-demand_gpus{pool="h100"}`, 1, "operator -", ""},
		{`demand_gpus{pool="h100"} @ end()`, 28, `no function "end"`, ""},
		{`gpu_idle{pool="h100",node=~"("}`, 0, "regexp", ""},
		{`demand_gpus{`, 13, "no PromQL", `demand_gpus{pool="a100"}`},
		{`demand_gpus{pool="h100"}}`, 25, "no PromQL", ""},
		{`demand_gpus{pool="h100`, 17, "no PromQL", ""},
		{`größe(demand_gpus{pool="h100"})`, 1, `no function`, ""},
		{`WITH (x = demand_gpus{pool="h100"}) x`, 1, "templates", "write the query out"},
		{``, 1, "no PromQL", ""},
		{`5`, 0, "selects no signal", ""},
		{`"x"`, 0, "selects no signal", ""},
		{strings.Repeat("x", 2000), 0, "2000 bytes", "1024 are allowed"},
		{"sum(" + strings.Repeat(`demand_gpus{pool="h100"},`, 8) + `demand_gpus{pool="h100"})`, 1, "of 9 series", "8 are allowed"},
	} {
		_, err := Parse(tt.text, known)
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%.60s: got %v", tt.text, err)
			continue
		}
		if e.Column != tt.column || !strings.Contains(e.What, tt.what) || !strings.Contains(e.Mend, tt.mend) {
			t.Errorf("%.60s: got column %d: %s; %s", tt.text, e.Column, e.What, e.Mend)
		}
	}
}

func TestNoQueuesAreConfigured(t *testing.T) {
	_, err := Parse(`queue_depth{source="tasks"}`, Known{Pools: []string{"h100"}})
	if err == nil || !strings.Contains(err.Error(), "no file of queues is configured") {
		t.Error(err)
	}
}

// What is recorded, and under which names, so that another version finds it.
func TestRecord(t *testing.T) {
	for _, tt := range []struct{ text, record, metric string }{
		{`demand_gpus{pool="h100"}`, "demand_gpus.h100", `demand_gpus [{pool h100}]`},
		{`max_over_time(demand_gpus{pool="h100"}[5m])`, "demand_gpus.h100", `demand_gpus [{pool h100}]`},
		{`queue_depth{source="tasks"}`, "queue_depth.tasks", `queue_depth [{source tasks}]`},
		{`sum(instance_demand{job="a.b/c d",namespace="ml"})`, "instance_demand.ml.a~2eb~2fc~20d", `instance_demand [{job a.b/c d} {namespace ml}]`},
		{`queue_depth{source="tasks"} > 5`, "query.0f29a8009376e08d", `query [{query queue_depth{source="tasks"} > 5}]`},
		{`max(instance_demand{job="chat"})`, "query.de603c0de7be0e14", `query [{query max(instance_demand{job="chat",namespace="default"})}]`},
		{`instance_demand{job="chat",group="web"}`, "query.8d57941c93ff94ef", `query [{query sum(instance_demand{job="chat",namespace="default",group="web"})}]`},
		{`sum(queue_depth{source="tasks"}, queue_depth{source="emails"})`, "query.c09b0946105eaf4a", `query [{query sum(queue_depth{source="tasks"}, queue_depth{source="emails"})}]`},
		{`gpu_busy_ratio{pool="h100"}`, "", ""},
		{`sum(demand_gpus{pool="h100"}, gpu_idle{pool="h100"})`, "", ""},
	} {
		q, err := Parse(tt.text, known)
		if err != nil {
			t.Fatal(err)
		}
		if got := q.Record(); got != tt.record {
			t.Errorf("%s: got %q, want %q", tt.text, got, tt.record)
		}
		if tt.record == "" {
			continue
		}
		if name, labels := q.Metric(); fmt.Sprint(name, " ", labels) != tt.metric {
			t.Errorf("%s: got %s %s, want %s", tt.text, name, labels, tt.metric)
		}
	}
	long := func(end string) string {
		q, err := Parse(`instance_demand{job="`+strings.Repeat("j", 300)+end+`"}`, known)
		if err != nil {
			t.Fatal(err)
		}
		return q.Record()
	}
	if a, b := long("a"), long("b"); len(a) != 128 || a == b {
		t.Errorf("long names: %q, %q", a, b)
	}
}

func TestWindowed(t *testing.T) {
	start := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	var s demand.Series
	for i, v := range []float64{5, 1, 3, 9, 2, 2, 4} {
		s = append(s, demand.Point{At: start.Add(time.Duration(i) * time.Minute), Value: v})
	}
	for text, want := range map[string][]float64{
		`demand_gpus{pool="h100"}`:                             {3, 9, 2, 2, 4},
		`sum_over_time(demand_gpus{pool="h100"}[3m])`:          {9, 13, 14, 13, 8},
		`avg_over_time(demand_gpus{pool="h100"}[2m])`:          {2, 6, 5.5, 2, 3},
		`min_over_time(demand_gpus{pool="h100"}[3m])`:          {1, 1, 2, 2, 2},
		`max_over_time(demand_gpus{pool="h100"}[3m])`:          {5, 9, 9, 9, 4},
		`count_over_time(demand_gpus{pool="h100"}[1h])`:        {3, 4, 5, 6, 7},
		`quantile_over_time(0.5,demand_gpus{pool="h100"}[3m])`: {3, 3, 3, 2, 2},
		`max_over_time(demand_gpus{pool="h100"}[1s])`:          {3, 9, 2, 2, 4},
	} {
		q, err := Parse(text, known)
		if err != nil {
			t.Fatal(err)
		}
		got := q.Windowed(s, start.Add(time.Minute))
		if len(got) != len(want) {
			t.Fatalf("%s: %v", text, got)
		}
		for i, p := range got {
			if p.Value != want[i] || !p.At.Equal(s[i+2].At) {
				t.Errorf("%s: point %d is %v, want %v", text, i, p, want[i])
			}
		}
	}
	q, _ := Parse(`max_over_time(demand_gpus{pool="h100"}[3m])`, known)
	if got := q.Windowed(nil, start); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
	if got := q.Windowed(s, start.Add(time.Hour)); len(got) != 0 {
		t.Errorf("after the end: %v", got)
	}
}

// A window that slides tells what one that is made anew would.
func TestWindowedAgainstPlain(t *testing.T) {
	start := time.Unix(0, 0)
	rapid.Check(t, func(t *rapid.T) {
		var s demand.Series
		at := start
		for range rapid.IntRange(1, 60).Draw(t, "samples") {
			at = at.Add(time.Duration(rapid.IntRange(1, 100).Draw(t, "gap")) * time.Second)
			s = append(s, demand.Point{At: at, Value: float64(rapid.IntRange(0, 9).Draw(t, "value"))})
		}
		q := Query{Window: time.Duration(rapid.IntRange(1, 500).Draw(t, "window")) * time.Second,
			Over: reduction{rapid.SampledFrom(aggregations).Draw(t, "how"), rapid.Float64Range(0, 1).Draw(t, "phi")}}
		from := start.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "from")) * time.Second)
		for _, p := range q.Windowed(s, from) {
			var values []float64
			for _, v := range s.Window(p.At.Add(-q.Window), p.At) {
				values = append(values, v.Value)
			}
			if want, err := q.Over.of(values); err != nil || math.Abs(want-p.Value) > 1e-9 {
				t.Fatalf("%s at %s: %v, want %v", q.Over.how, p.At, p.Value, want)
			}
		}
	})
}

// Whatever is asked, the answer is a query that says the same when it is
// written out, or a mistake with a place in the text.
func FuzzParse(f *testing.F) {
	f.Add(`demand_gpus{pool="h100"}`)
	f.Add(`sum(x) by (y)`)
	f.Add(`quantile_over_time(0.5, sum(instance_demand{job='a', group=~"b|c"}, queue_depth{source="tasks"})[5m:]) > 3`)
	f.Add("WITH (a=b+b, c=a+a) c")
	f.Add(`max_over_time(queue_depth{source="tasks"} > 5[10m])`)
	f.Fuzz(func(t *testing.T, text string) {
		q, err := Parse(text, known)
		var e *Error
		if err != nil {
			if !errors.As(err, &e) || e.Column < 0 || e.Column > len([]rune(text))+1 || e.What == "" {
				t.Fatalf("%q: %#v", text, err)
			}
			return
		}
		for _, term := range q.Terms {
			if term.Signal == nil || term.key == "" {
				t.Fatalf("%q was accepted as %+v", text, q)
			}
		}
		base, err := Parse(q.Base(), known)
		if err != nil || base.Base() != q.Base() {
			t.Fatalf("%q is %s, which is read as %s, %v", text, q.Base(), base.Base(), err)
		}
		if r := q.Value(&Sight{}); r.Err == nil {
			t.Fatalf("%q is %v where nothing was seen", text, r.Value)
		}
	})
}
