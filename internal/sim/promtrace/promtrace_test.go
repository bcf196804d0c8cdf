package promtrace_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/sim/promtrace"
)

var end = time.Date(2024, time.March, 20, 12, 0, 30, 0, time.UTC)

// server answers range queries with value(minute); "" leaves the sample out.
func server(t *testing.T, value func(at time.Time) string) (url string, asked *int) {
	asked = new(int)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked++
		if err := r.ParseForm(); err != nil || r.URL.Path != "/api/v1/query_range" {
			http.NotFound(w, r)
			return
		}
		from, _ := strconv.ParseFloat(r.Form.Get("start"), 64)
		to, _ := strconv.ParseFloat(r.Form.Get("end"), 64)
		step, _ := strconv.ParseFloat(r.Form.Get("step"), 64)
		if step != 60 || (to-from)/step > 11000 {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"status":"error","errorType":"bad_data","error":"exceeded maximum resolution of 11,000 points"}`)
			return
		}
		var values []any
		for at := from; at <= to; at += step {
			if v := value(time.Unix(int64(at), 0).UTC()); v != "" {
				values = append(values, []any{at, v})
			}
		}
		result := []any{}
		if len(values) > 0 {
			result = append(result, map[string]any{"metric": map[string]string{}, "values": values})
		}
		if strings.Contains(r.Form.Get("query"), "two") {
			result = append(result, result[0])
		}
		json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": map[string]any{"resultType": "matrix", "result": result}})
	}))
	t.Cleanup(s.Close)
	return s.URL, asked
}

func TestFetchAsksInPieces(t *testing.T) {
	url, asked := server(t, func(at time.Time) string {
		if at.Hour() == 3 && at.Minute() == 30 {
			return "NaN"
		}
		if at.Hour() == 4 && at.Minute() < 10 {
			return ""
		}
		return strconv.Itoa(at.Hour())
	})
	got, err := promtrace.Fetch(context.Background(), promtrace.Config{URL: url, Query: "sum(x)", Range: 14 * 24 * time.Hour, End: end})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Arrivals) != 14*24*60 || *asked != 3 {
		t.Errorf("%d minutes in %d questions", len(got.Arrivals), *asked)
	}
	if last := got.Start.Add(got.Duration() - time.Minute); !last.Equal(end.Truncate(time.Minute)) {
		t.Errorf("the last minute is %s", last)
	}
	for i, v := range got.Arrivals {
		at := got.Start.Add(time.Duration(i) * time.Minute)
		if at.Hour() != 4 && at.Hour() != 3 && v != float64(at.Hour()) {
			t.Fatalf("%s has %v", at, v)
		}
	}
	if len(got.Notes) != 1 || !strings.Contains(got.Notes[0], "154 of 20160 minutes") {
		t.Errorf("notes: %q", got.Notes)
	}
}

func TestFetchSaysWhatIsWrong(t *testing.T) {
	url, _ := server(t, func(time.Time) string { return "1" })
	empty, _ := server(t, func(time.Time) string { return "" })
	huge := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte(`{"status":"success","data":"`))
		for range 20 << 10 {
			w.Write(make([]byte, 1024))
		}
	}))
	defer huge.Close()
	for _, c := range []struct {
		name   string
		config promtrace.Config
		want   string
	}{
		{"no scheme", promtrace.Config{URL: "prometheus:9090", Query: "x", Range: time.Hour, End: end}, "must be http:// or https://"},
		{"no query", promtrace.Config{URL: url, Range: time.Hour, End: end}, "the query is empty"},
		{"short", promtrace.Config{URL: url, Query: "x", Range: time.Minute, End: end}, "range 1m0s: must be 1h to"},
		{"two series", promtrace.Config{URL: url, Query: "two", Range: time.Hour, End: end}, "gives 2 series: sum them up"},
		{"nothing", promtrace.Config{URL: empty, Query: "x", Range: time.Hour, End: end}, "no rows"},
		{"not Prometheus", promtrace.Config{URL: url + "/else", Query: "x", Range: time.Hour, End: end}, "404"},
		{"too much", promtrace.Config{URL: huge.URL, Query: "x", Range: time.Hour, End: end}, "response is larger than"},
		{"nobody there", promtrace.Config{URL: "http://user:secret@127.0.0.1:1", Query: "x", Range: time.Hour, End: end}, "127.0.0.1:1"},
	} {
		_, err := promtrace.Fetch(context.Background(), c.config)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error tells the password: %v", c.name, err)
		}
	}
}
