package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/sdk"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/consul/consultest"
	"github.com/gpupool/gpupool/internal/history"
	"github.com/gpupool/gpupool/internal/pluginhost"
	"github.com/gpupool/gpupool/internal/promrange"
	"github.com/gpupool/gpupool/internal/signal"
)

func httpServer(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

var noon = time.Date(2026, time.November, 22, 12, 0, 0, 0, time.UTC)

// recording is a sampling that nothing is sampled by but what a test takes.
func recording(t testing.TB, keep *archive) *sampling {
	t.Helper()
	keep.log = hclog.NewNullLogger()
	keep.tally = newTally()
	s := &sampling{
		known: signal.Known{Pools: []string{"h100"}}, hold: 2 * time.Minute, tally: keep.tally, keep: keep,
		book: &book{log: keep.log, fine: time.Hour, recorded: true, series: make(map[string]*series)},
	}
	s.book.added = func(*series) {}
	return s
}

func (s *sampling) sample(t testing.TB, at time.Time, v float64) *series {
	t.Helper()
	q, err := signal.Parse(demandQuery, s.known)
	if err != nil {
		t.Fatal(err)
	}
	one, err := s.book.of(q, true, at)
	if err != nil {
		t.Fatal(err)
	}
	if v >= 0 {
		one.take(at, signal.Reading{At: at, Value: v}, s.book.fine, s.keep.log)
	}
	return one
}

func (s *sampling) points(t testing.TB, from, to time.Time) sdk.TimestampedMetrics {
	t.Helper()
	out, err := s.answer(demandQuery, sdk.TimeRange{From: from, To: to})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func consulClient(t testing.TB, addr string) *consul.Client {
	t.Helper()
	c, err := consul.New(consul.Config{Address: addr})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// An autoscaler dies and another one takes over: it has the whole window at
// once, and goes on with it.
func TestFailover(t *testing.T) {
	agent := consultest.Start(t)
	first := recording(t, &archive{consul: consulClient(t, agent.Addr)})
	// Three days of a sample each ten seconds would take long: one each minute.
	begin := noon.Add(-3 * 24 * time.Hour)
	value := func(at time.Time) float64 { return float64(at.Unix() / 60 % 7) }
	for at := begin; at.Before(noon); at = at.Add(time.Minute) {
		first.sample(t, at.Add(30*time.Second), value(at))
		if at.Minute() == 0 {
			first.keep.round(t.Context(), first.book, at.Add(time.Minute))
		}
	}
	first.keep.round(t.Context(), first.book, noon.Add(time.Second))

	second := recording(t, &archive{consul: consulClient(t, agent.Addr)})
	one := second.sample(t, noon, -1)
	second.keep.load(t.Context(), one, noon)
	for i := range 6 {
		second.sample(t, noon.Add(time.Duration(i*10)*time.Second+time.Second), 50+float64(i))
	}
	now := noon.Add(time.Minute)
	got := second.points(t, now.Add(-14*24*time.Hour), now)
	if want := 3*24*60 + 6; len(got) != want {
		t.Fatalf("%d points of 14 days, want %d", len(got), want)
	}
	for i, p := range got[:3*24*60] {
		at := begin.Add(time.Duration(i+1) * time.Minute)
		if !p.Timestamp.Equal(at) || p.Value != value(at.Add(-time.Minute)) {
			t.Fatalf("point %d is %v at %s, want %v at %s", i, p.Value, p.Timestamp, value(at.Add(-time.Minute)), at)
		}
	}
	if last := got[len(got)-1]; last.Value != 55 {
		t.Errorf("the newest is %v", last)
	}
	if got := second.points(t, now, now); len(got) != 1 || got[0].Value != 55 {
		t.Errorf("an instant: %v", got)
	}
	// Days that are too old go, also those of a pool that is gone.
	old := history.DayOf(noon) - keepDays - 1
	for _, name := range []string{"demand_gpus.h100", "demand_gpus.gone"} {
		put := &api.KVPair{Key: "gpupool/v1/history/" + name + "/" + history.Date(old), Value: new(history.Day).Encode(old)}
		if _, err := agent.Client().KV().Put(put, nil); err != nil {
			t.Fatal(err)
		}
	}
	// Its own minutes are kept too.
	second.sample(t, noon.Add(61*time.Second), 0)
	second.keep.round(t.Context(), second.book, noon.Add(62*time.Second))
	if keys, _, err := agent.Client().KV().Keys("gpupool/v1/history/demand_gpus.gone/", "", nil); err != nil || len(keys) != 0 {
		t.Errorf("old days are left: %q, %v", keys, err)
	}
	days, _, err := consulClient(t, agent.Addr).History(t.Context(), "demand_gpus.h100", 0)
	if days[old] != nil {
		t.Error("an old day is left")
	}
	if v, ok := days[history.DayOf(noon)].At(12 * 60); err != nil || !ok || math.Abs(v-52.5) > 0.01 {
		t.Errorf("the minute after the failover is %v, %v, %v", v, ok, err)
	}
}

// Two autoscalers that both believe to be the one: minutes of neither are lost,
// and both end with the same day.
func TestTwoAutoscalers(t *testing.T) {
	agent := consultest.Start(t)
	var both []*sampling
	for range 2 {
		both = append(both, recording(t, &archive{consul: consulClient(t, agent.Addr)}))
	}
	for minute := range 20 {
		at := noon.Add(time.Duration(minute) * time.Minute)
		for i, s := range both {
			if minute%3 != i { // each misses some
				s.sample(t, at.Add(30*time.Second), float64(minute))
			}
			s.keep.round(t.Context(), s.book, at.Add(61*time.Second))
		}
	}
	for i, s := range both {
		s.keep.round(t.Context(), s.book, noon.Add(21*time.Minute))
		got := s.points(t, noon, noon.Add(20*time.Minute))
		if len(got) != 20 {
			t.Fatalf("autoscaler %d has %d of 20 minutes", i, len(got))
		}
		for minute, p := range got {
			if p.Value != float64(minute) {
				t.Errorf("autoscaler %d: minute %d is %v", i, minute, p.Value)
			}
		}
	}
}

// A chunk that cannot be read is left out, counted and left alone; the others
// are used. Consul that comes late is read when it comes.
func TestDamagedHistory(t *testing.T) {
	agent := consultest.Start(t)
	c := consulClient(t, agent.Addr)
	day := new(history.Day)
	day.Set(100, 42)
	yesterday := history.DayOf(noon) - 1
	if _, err := c.AddHistory(t.Context(), "demand_gpus.h100", yesterday, day); err != nil {
		t.Fatal(err)
	}
	today := &api.KVPair{Key: "gpupool/v1/history/demand_gpus.h100/2026-11-22", Value: []byte("\x02a later version")}
	if _, err := agent.Client().KV().Put(today, nil); err != nil {
		t.Fatal(err)
	}
	s := recording(t, &archive{consul: c})
	var log strings.Builder
	s.keep.log = hclog.New(&hclog.LoggerOptions{Output: &log})
	s.sample(t, noon.Add(time.Second), 3)

	agent.Stop()
	s.keep.round(t.Context(), s.book, noon.Add(time.Minute))
	if got := s.points(t, noon.Add(-48*time.Hour), noon.Add(time.Minute)); len(got) != 1 {
		t.Errorf("without Consul: %v", got)
	}
	agent.Run()
	for range 3 {
		s.keep.round(t.Context(), s.book, noon.Add(2*time.Minute))
	}
	if got := s.points(t, noon.Add(-48*time.Hour), noon.Add(time.Minute)); len(got) != 2 || got[0].Value != 42 {
		t.Errorf("with Consul again: %v", got)
	}
	if n := strings.Count(log.String(), "a day of history is left out"); n != 1 || !strings.Contains(log.String(), "consul kv delete "+today.Key) {
		t.Errorf("the chunk is told of %d times:\n%s", n, log.String())
	}
	if pair, _, err := agent.Client().KV().Get(today.Key, nil); err != nil || string(pair.Value) != string(today.Value) {
		t.Errorf("the chunk of a later version was overwritten: %v, %v", pair, err)
	}
	if n := served(t, s)["gpupool_apm_left_out_total what=history chunk"]; n != "1" {
		t.Errorf("counted %q times", n)
	}
	// Once it is gone, what is in memory is written.
	if _, err := agent.Client().KV().Delete(today.Key, nil); err != nil {
		t.Fatal(err)
	}
	s.keep.round(t.Context(), s.book, noon.Add(3*time.Minute))
	days, left, err := c.History(t.Context(), "demand_gpus.h100", 0)
	if err != nil || len(left) != 0 || days[yesterday+1] == nil {
		t.Errorf("after the mend: %v, %v, %v", days, left, err)
	}
}

// The history can be read from anything that speaks Prometheus' API.
func TestHistoryFromPrometheus(t *testing.T) {
	var asked []string
	url := httpServer(t, func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		asked = append(asked, r.Form.Get("query"))
		from, _ := strconv.ParseFloat(r.Form.Get("start"), 64)
		to, _ := strconv.ParseFloat(r.Form.Get("end"), 64)
		var values []any
		for at := from; at <= to; at += 60 {
			if v := int(at) / 60 % 10; v != 9 {
				values = append(values, []any{at, strconv.Itoa(v)})
			}
		}
		result := []any{map[string]any{"metric": map[string]string{}, "values": values}}
		_ = json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": map[string]any{"resultType": "matrix", "result": result}})
	})
	s := recording(t, &archive{prom: &promrange.Config{URL: url, Query: defaultQuery}})
	one := s.sample(t, noon.Add(time.Second), 3)
	s.keep.round(t.Context(), s.book, noon.Add(30*time.Second))
	got := s.points(t, noon.Add(-28*24*time.Hour), noon.Add(time.Minute))
	if want := 28*24*60*9/10 + 1; len(got) < want-2 || len(got) > want+2 {
		t.Errorf("%d points, want %d", len(got), want)
	}
	for _, p := range got[:len(got)-1] {
		if want := p.Timestamp.Unix() / 60 % 10; p.Value != float64(want) {
			t.Fatalf("%s is %v, want %d", p.Timestamp, p.Value, want)
		}
	}
	if want := `max(avg_over_time(gpupool_demand_gpus{pool="h100"}[1m]))`; len(asked) == 0 || asked[0] != want {
		t.Errorf("asked %q, want %q", asked, want)
	}
	n := len(asked)
	s.keep.round(t.Context(), s.book, noon.Add(90*time.Second))
	if len(asked) != n || !one.loaded {
		t.Error("it was read again")
	}
}

// What is served for Prometheus has the names that the history is read by.
func TestMetrics(t *testing.T) {
	s := recording(t, &archive{})
	s.sample(t, time.Now(), 3)
	q, err := signal.Parse(`instance_demand{job="chat"}`, s.known)
	if err != nil {
		t.Fatal(err)
	}
	one, err := s.book.of(q, false, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	one.take(time.Now(), signal.Reading{At: time.Now(), Value: 12}, time.Hour, s.keep.log)
	old, err := signal.Parse(`allocated_gpus{pool="h100"}`, s.known)
	if err != nil {
		t.Fatal(err)
	}
	stale, err := s.book.of(old, false, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	sum, err := signal.Parse(`sum(instance_demand{job="chat"}, demand_gpus{pool="h100"})`, s.known)
	if err != nil {
		t.Fatal(err)
	}
	both, err := s.book.of(sum, false, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	both.take(time.Now(), signal.Reading{At: time.Now(), Value: 15}, time.Hour, s.keep.log)
	stale.take(time.Now(), signal.Reading{At: time.Now().Add(-time.Hour), Value: 12}, 2*time.Hour, s.keep.log)
	s.tally.asked(nil)
	s.tally.leftOut("snapshot")

	got := served(t, s)
	for name, want := range map[string]string{
		"gpupool_demand_gpus pool=h100":                                                                           "3",
		"gpupool_instance_demand namespace=default nomad_job=chat":                                                "12",
		`gpupool_query query=sum(sum(instance_demand{job="chat",namespace="default"}), demand_gpus{pool="h100"})`: "15",
		"gpupool_allocated_gpus pool=h100":                                                                        "",
		"gpupool_apm_queries_total result=ok":                                                                     "1",
		"gpupool_apm_left_out_total what=snapshot":                                                                "1",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q: %v", name, got[name], want, got)
		}
	}
}

// served is what Prometheus would read, found well named.
func served(t *testing.T, s *sampling) map[string]string {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(exposition{s.tally, s.book, s.hold})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	got := make(map[string]string)
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			got[f.GetName()+" "+strings.Join(labels, " ")] = fmt.Sprint(m.GetGauge().GetValue() + m.GetCounter().GetValue())
		}
	}
	return got
}

func TestServeMetrics(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	s := recording(t, &archive{})
	s.sample(t, time.Now(), 3)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		pluginhost.Answer(ctx, addr, exposition{s.tally, s.book, s.hold}.handler(), hclog.NewNullLogger())
		close(done)
	}()
	var status string
	for deadline := time.Now().Add(time.Minute); status != "200 OK" && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if resp, err := http.Get("http://" + addr + "/metrics"); err == nil {
			status = resp.Status
			_ = resp.Body.Close()
		}
	}
	if status != "200 OK" {
		t.Errorf("GET /metrics: %s", status)
	}
	cancel()
	<-done
}

// After a gap longer than hold, the first sample is the answer to the question
// that it was taken for, with the history before it.
func TestFirstQuestionAfterAFailover(t *testing.T) {
	s := recording(t, &archive{})
	one := s.sample(t, noon, -1)
	for i := range 60 {
		one.record.FillPoint(pointAt(noon.Add(-time.Duration(5+i)*time.Minute), 7))
	}
	closeOnce(one.tried)
	one.take(noon, signal.Reading{At: noon.Add(2 * time.Second), Value: 3}, time.Hour, s.keep.log)
	for window, want := range map[time.Duration]int{0: 1, time.Minute: 1, time.Hour: 57} {
		got := s.points(t, noon.Add(-window), noon)
		if len(got) != want || got[len(got)-1].Value != 3 {
			t.Errorf("a window of %s has %d points, want %d: %v", window, len(got), want, got[len(got)-1])
		}
	}
	// A question about the past is not answered with the present.
	if got, err := s.answer(demandQuery, sdk.TimeRange{From: noon.Add(-time.Hour), To: noon.Add(-3 * time.Minute)}); err == nil && got[len(got)-1].Value == 3 {
		t.Errorf("three minutes ago: %v", got[len(got)-1])
	}
}
