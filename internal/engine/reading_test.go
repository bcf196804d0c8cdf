package engine

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// said is a reading in a few words: gauges and counters with their values, and
// how much each histogram counted.
func said(r Reading) string {
	var words []string
	for _, m := range Measures {
		if v, ok := r.Gauges[m.Measure]; ok {
			words = append(words, fmt.Sprintf("%s=%g", m.Measure, v))
		}
		if v, ok := r.Counters[m.Measure]; ok {
			words = append(words, fmt.Sprintf("%s=%g", m.Measure, v))
		}
		if b, ok := r.Histograms[m.Measure]; ok {
			words = append(words, fmt.Sprintf("%s:%g", m.Measure, b.Counts[len(b.Counts)-1]))
		}
	}
	for _, f := range Flaws {
		if n := r.Flaws[f.Flaw]; n > 0 {
			words = append(words, fmt.Sprintf("!%s:%d", f.Flaw, n))
		}
	}
	return strings.Join(append(words, r.Models...), " ")
}

// parse reads a file of testdata, or a text, as the profile does.
func parse(t testing.TB, p Profile, text []byte) (Reading, error) {
	t.Helper()
	if p.Metrics == "" {
		return ParseDocument(bytes.NewReader(text), p)
	}
	return ParseExposition(bytes.NewReader(text), p)
}

func profile(t testing.TB, name string) Profile {
	t.Helper()
	p, ok := Find(name)
	if !ok {
		t.Fatalf("no profile %s", name)
	}
	return p
}

// TestServers reads what each kind of server says, in its versions.
func TestServers(t *testing.T) {
	for _, tt := range []struct{ file, want string }{
		{"vllm.txt", "waiting=2 running=7 kv_used=0.55 awake=1 preemptions=3 finished=151 ttft:151 itl:151 queue_time:151 latency:151 Qwen/Qwen3-8B"},
		{"vllm-0.8.txt", "waiting=2 running=3 kv_used=0.41 preemptions=3 finished=151 ttft:151 itl:151 queue_time:151 latency:151 Qwen/Qwen3-8B"},
		{"vllm-asleep.txt", "waiting=0 running=0 kv_used=0 awake=0 preemptions=3 finished=151 ttft:151 itl:151 queue_time:151 latency:151 Qwen/Qwen3-8B"},
		{"vllm-ray.txt", "waiting=0 running=1 kv_used=0.1 awake=1 preemptions=3 finished=151 ttft:151 itl:151 queue_time:151 latency:151 Qwen/Qwen3-8B"},
		{"sglang.txt", "waiting=5 running=12 kv_used=0.83 preemptions=7 finished=900 ttft:900 itl:900 queue_time:900 latency:900 meta-llama/Llama-3.1-8B-Instruct"},
		{"sglang-0.4.txt", "waiting=5 running=12 kv_used=0.83 finished=900 ttft:900 itl:900 queue_time:900 latency:900 meta-llama/Llama-3.1-8B-Instruct"},
		{"trtllm.txt", "waiting=1 running=8 kv_used=0.25 finished=6 ttft:6 itl:6 queue_time:6 latency:6 nemotron"},
		{"trtllm-no-stats.txt", "ttft:6 itl:6 queue_time:6 latency:6 nemotron"},
		{"triton.txt", "waiting=3 finished=81 ttft:40 ensemble tensorrt_llm"},
		{"triton-trtllm.txt", "waiting=6 running=9 slots=64 kv_used=0.7 finished=81 ensemble tensorrt_llm"},
		{"nim.txt", "waiting=4 running=32 slots=256 kv_used=0.5 finished=77 ttft:6 itl:6 latency:6 meta/llama-3.1-8b-instruct"},
		{"dynamo.txt", "waiting=9 running=21 kv_used=0.3 finished=1523 ttft:6 itl:6 latency:6 qwen/qwen3-0.6b"},
		{"tgi.txt", "waiting=3 running=16 finished=12 itl:6 queue_time:6 latency:6"},
		{"llamacpp.txt", "waiting=1 running=2"},
		{"llamacpp-b4000.txt", "waiting=0 running=0 kv_used=0.125"},
		{"ollama.json", "qwen3:8b"},
		{"ollama-empty.json", ""},
		{"ray-serve.txt", "waiting=7 running=5 finished=66 latency:66 LLMDeployment"},
	} {
		t.Run(tt.file, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", tt.file))
			if err != nil {
				t.Fatal(err)
			}
			p := profileOf(t, tt.file)
			r, err := parse(t, p, text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, said(r)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if p.Prefixes == nil {
				return
			}
			names, err := ParseNames(bytes.NewReader(text))
			if got, ok := Recognize(names); err != nil || !ok || got.Name != p.Name {
				t.Errorf("recognized as %q (%v), want %s", got.Name, err, p.Name)
			}
		})
	}
}

// profileOf is the profile whose name a file's name begins with.
func profileOf(t testing.TB, file string) Profile {
	t.Helper()
	base := strings.TrimSuffix(strings.TrimSuffix(file, ".txt"), ".json")
	for base != "" {
		if p, ok := Find(base); ok {
			return p
		}
		base = base[:max(0, strings.LastIndex(base, "-"))]
	}
	t.Fatalf("no profile for %s", file)
	return Profile{}
}

// TestEveryProfileIsTried keeps the files and the table in step.
func TestEveryProfileIsTried(t *testing.T) {
	files, err := filepath.Glob("testdata/*.*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range Profiles {
		generic := p.Name == "prometheus" || p.Name == "json"
		if !generic && !slices.ContainsFunc(files, func(f string) bool { return profileOf(t, filepath.Base(f)).Name == p.Name }) {
			t.Errorf("nothing in testdata is what %s says", p.Title)
		}
		for m, selectors := range p.From {
			for _, s := range selectors {
				again, err := ParseSelector(s.String())
				if err != nil {
					t.Errorf("%s: %s: %v", p.Name, m, err)
				}
				if again.Scale == 0 {
					again.Scale = s.Scale
				}
				if diff := cmp.Diff(s, again); diff != "" {
					t.Errorf("%s: %s is written and read as another:\n%s", p.Name, m, diff)
				}
			}
		}
	}
}

// TestWhatServersMustNotDo: each flaw is named and counted, the measure that
// it is about is absent, and the rest is read.
func TestWhatServersMustNotDo(t *testing.T) {
	const fine = "vllm:num_requests_running 2\n"
	histogram := func(lines ...string) string {
		return "# TYPE vllm:time_to_first_token_seconds histogram\nvllm:time_to_first_token_seconds_bucket" +
			strings.Join(lines, "\nvllm:time_to_first_token_seconds_bucket") + "\n"
	}
	var many, wide strings.Builder
	for i := range maxSeries + 1 {
		fmt.Fprintf(&many, "vllm:num_requests_waiting{engine=\"%d\"} 1\n", i)
	}
	fmt.Fprint(&wide, "# TYPE vllm:time_to_first_token_seconds histogram\n")
	for i := range maxBounds + 1 {
		fmt.Fprintf(&wide, "vllm:time_to_first_token_seconds_bucket{le=\"%d\"} 1\n", i)
	}
	for _, tt := range []struct{ name, text, want string }{
		{"not a number", "vllm:num_requests_waiting NaN\n", "!not_a_number:1"},
		{"infinite", "vllm:num_requests_waiting +Inf\n", "!not_a_number:1"},
		{"one of several is not a number", "vllm:num_requests_waiting{engine=\"0\"} 3\nvllm:num_requests_waiting{engine=\"1\"} NaN\n", "!not_a_number:1"},
		{"negative", "vllm:num_requests_waiting -1\n", "!negative:1"},
		{"a ratio in percent", "vllm:kv_cache_usage_perc 55\n", "!too_large:1"},
		{"absurd", "vllm:num_requests_waiting 1e300\n", "!too_large:1"},
		{"a sum beyond numbers", "vllm:num_requests_waiting{e=\"0\"} 1.7e308\nvllm:num_requests_waiting{e=\"1\"} 1.7e308\n", "!too_large:1"},
		{"the same series twice, differing", "vllm:num_requests_waiting{a=\"1\",b=\"2\"} 1\nvllm:num_requests_waiting{b=\"2\",a=\"1\"} 2\n", "!duplicate:1"},
		{"the same series twice, equal", "vllm:num_requests_waiting{a=\"1\"} 3\nvllm:num_requests_waiting{a=\"1\"} 3\n", "waiting=3"},
		{"too many series", many.String(), "!series:1"},
		{"a histogram without a type", "vllm:time_to_first_token_seconds_bucket{le=\"+Inf\"} 1\n", ""},
		{"a gauge for a histogram", "# TYPE vllm:time_to_first_token_seconds gauge\nvllm:time_to_first_token_seconds 1\n", "!type:1"},
		{"a histogram for a gauge", "# TYPE vllm:num_requests_waiting histogram\nvllm:num_requests_waiting_bucket{le=\"+Inf\"} 1\nvllm:num_requests_waiting_count 1\n", "!type:1"},
		{"buckets that shrink", histogram(`{le="1"} 5`, `{le="2"} 4`, `{le="+Inf"} 5`), "!histogram:1"},
		{"no bucket for infinity", histogram(`{le="1"} 5`), "!histogram:1"},
		{"a bucket that is not a number", histogram(`{le="1"} NaN`, `{le="+Inf"} 5`), "!not_a_number:1"},
		{"a bound twice", histogram(`{le="1"} 1`, `{le="1"} 2`, `{le="+Inf"} 5`), "!duplicate:1"},
		{"other bounds on another rank", histogram(`{e="0",le="1"} 1`, `{e="0",le="+Inf"} 5`, `{e="1",le="2"} 1`, `{e="1",le="+Inf"} 5`), "!histogram:1"},
		{"too many buckets", wide.String(), "!series:1"},
		{"an exemplar", histogram(`{le="1"} 1 # {trace_id="x"} 0.5`, `{le="+Inf"} 5 # {trace_id="y"} 3 1700000000.1`), "ttft:5"},
		{"a # in a label", "vllm:num_requests_waiting{model_name=\"a # b\\\" # c\"} 3\n", `waiting=3 a # b" # c`},
		{"a metric of somebody else that is broken", "other{ 3 nonsense\n\x00\xff\n", ""},
		{"Windows' line ends", "vllm:num_requests_waiting 3\r\n", "waiting=3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := parse(t, profile(t, "vllm"), []byte(tt.text+fine))
			want := strings.TrimSpace("running=2 " + tt.want)
			if strings.HasPrefix(tt.want, "waiting=") {
				first, rest, _ := strings.Cut(tt.want, " ")
				want = strings.TrimSpace(first + " running=2 " + rest)
			}
			if err != nil || said(r) != want {
				t.Errorf("got %q, %v; want %q", said(r), err, want)
			}
		})
	}
}

// TestExpositionsThatAreRefused: nothing is taken of these.
func TestExpositionsThatAreRefused(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"a page", "<html>vllm:num_requests_waiting\nvllm:num_requests_waiting <b>3</b>\n", "not Prometheus' text format"},
		{"a negative bucket", "# TYPE vllm:time_to_first_token_seconds histogram\nvllm:time_to_first_token_seconds_bucket{le=\"1\"} -5\n", "negative bucket"},
		{"an endless line", "vllm:num_requests_waiting{a=\"" + strings.Repeat("x", MaxLine), "line 1 has more than 16384 bytes"},
		{"too many lines", strings.Repeat("a 1\n", MaxLines+1), "more than 50000 lines"},
		{"too many bytes", strings.Repeat(strings.Repeat("x", 1000)+"\n", MaxBytes/1000), "more than 4194304 bytes"},
		{"two types", "# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting 1\n# TYPE vllm:num_requests_waiting counter\n", "text format"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if r, err := parse(t, profile(t, "vllm"), []byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %q, %v; want an error that says %q", said(r), err, tt.want)
			}
		})
	}
}

func TestDocument(t *testing.T) {
	p := profile(t, "json")
	p.From = map[Measure][]Selector{}
	for m, text := range map[Measure]string{
		Waiting: "len(/queue)", Running: "/workers/*/busy", Slots: "/limits/0", KVUsed: "max(/workers/*/cache~1percent) * 0.01", Awake: "/awake",
		Finished: "/done", TTFT: "/ttft",
	} {
		s, err := ParseSelector(text)
		if err != nil {
			t.Fatal(err)
		}
		p.From[m] = []Selector{s}
	}
	for _, tt := range []struct{ text, want string }{
		{`{"queue":[1,2,3],"workers":[{"busy":true,"cache/percent":40},{"busy":false,"cache/percent":60}],"limits":[8],"awake":true,"done":17}`,
			"waiting=3 running=1 slots=8 kv_used=0.6 awake=1 finished=17"},
		{`{}`, ""},
		{`[]`, ""},
		{`{"limits":[null]}`, ""},
		{`{"limits":["8"]}`, "!type:1"},
		{`{"limits":[-8]}`, "!negative:1"},
		{`{"workers":[{"cache/percent":400}]}`, "!too_large:1"},
		{`{"ttft":3}`, "!type:1"},
		{`{"queue":[],"limits":[[]]}`, "waiting=0 !type:1"},
	} {
		if r, err := parse(t, p, []byte(tt.text)); err != nil || said(r) != tt.want {
			t.Errorf("%s: %q, %v; want %q", tt.text, said(r), err, tt.want)
		}
	}
	for _, text := range []string{"", "x", `{"queue":`, `{"limits":[1e999]}`, `"` + strings.Repeat("x", MaxBytes) + `"`} {
		if r, err := parse(t, p, []byte(text)); err == nil {
			t.Errorf("%.20q: %q, want an error", text, said(r))
		}
	}
}

func TestSelectors(t *testing.T) {
	for text, want := range map[string]Selector{
		"depth":                           {Name: "depth"},
		` a:b_c{x="y", z="q\"{" } * 0.01`: {},
		`a:b_c{x="y", z="q\""} * 0.01`:    {Name: "a:b_c", Match: map[string]string{"x": "y", "z": `q"`}, Scale: 0.01},
		`max(d)`:                          {Name: "d", Fold: Max},
		`sum(d)`:                          {Name: "d"},
		`min(/a/*/b)`:                     {Name: "/a/*/b", Fold: Min},
		`len(/a)`:                         {Name: "/a", Len: true},
		"":                                {},
		"a b":                             {},
		"max(d":                           {},
		"d)":                              {},
		"d * -1":                          {},
		"d * 1e99":                        {},
		`d{x=y}`:                          {},
		`/a{x="y"}`:                       {},
		`len(d)`:                          {},
		"rate(d)":                         {},
		strings.Repeat("x", 1<<16) + "{":  {},
	} {
		got, err := ParseSelector(text)
		if (err != nil) != (want.Name == "") {
			t.Errorf("%.60q: %+v, %v", text, got, err)
		}
		if diff := cmp.Diff(want, got); err == nil && diff != "" {
			t.Errorf("%.60q:\n%s", text, diff)
		}
		if err != nil && len(err.Error()) > 400 {
			t.Errorf("%.60q: an error of %d bytes", text, len(err.Error()))
		}
	}
}

func TestHints(t *testing.T) {
	for text, want := range map[string]string{
		"vllm/vllm-openai:v0.11.0":                 "vllm",
		"/bin/sh -c exec vllm serve Qwen/Qwen3-8B": "vllm",
		"python3 -m sglang.launch_server":          "sglang",
		"nvcr.io/nim/meta/llama-3.1-8b-instruct:1": "nim",
		"nvcr.io/nvidia/tritonserver:25.09-py3":    "triton",
		"ghcr.io/ggml-org/llama.cpp:server-cuda":   "llamacpp",
		"python -m dynamo.frontend":                "dynamo",
		"ollama/ollama:0.12":                       "ollama",
		"python train.py":                          "",
	} {
		if p, _ := Hinted(text); p.Name != want {
			t.Errorf("%q is taken for %q, want %q", text, p.Name, want)
		}
	}
}

// FuzzExposition: whatever a server says, the reader lives, stays within its
// bounds, and gives numbers that can be worked with.
func FuzzExposition(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.txt")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("vllm:num_requests_waiting{a=\"\\\"} # \"} NaN # {x=\"y\"} 1\n"))
	p := profile(f, "vllm")
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ParseExposition(bytes.NewReader(text), p)
		if err != nil {
			return
		}
		sound := func(v float64) bool { return v >= 0 && !math.IsInf(v, 0) }
		for m, v := range r.Gauges {
			if _, most := kindOf(m); !sound(v) || v > most {
				t.Errorf("%s is %g", m, v)
			}
		}
		for m, v := range r.Counters {
			if !sound(v) {
				t.Errorf("%s is %g", m, v)
			}
		}
		for m, b := range r.Histograms {
			if len(b.Bounds) != len(b.Counts) || len(b.Bounds) == 0 || !slices.IsSorted(b.Counts) || !slices.IsSorted(b.Bounds) || !sound(b.Counts[len(b.Counts)-1]) {
				t.Errorf("%s is %+v", m, b)
			}
		}
		if len(r.Models) > maxModels {
			t.Errorf("%d models", len(r.Models))
		}
	})
}

// BenchmarkExposition reads one of the size that vLLM writes.
func BenchmarkExposition(b *testing.B) {
	text, err := os.ReadFile("testdata/vllm.txt")
	if err != nil {
		b.Fatal(err)
	}
	var full bytes.Buffer
	full.Write(text)
	for i := 0; full.Len() < 100<<10; i++ {
		fmt.Fprintf(&full, "vllm:request_prompt_tokens_bucket{engine=\"0\",le=\"%d\",model_name=\"Qwen/Qwen3-8B\"} 151.0\n", i)
	}
	p := profile(b, "vllm")
	b.SetBytes(int64(full.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseExposition(bytes.NewReader(full.Bytes()), p); err != nil {
			b.Fatal(err)
		}
	}
}
