package promrange_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/promrange"
)

// What promtrace asks for is tried there; here is what it leaves out.
func TestAsk(t *testing.T) {
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if r.Header.Get("Authorization") != "Bearer secret" {
			http.Error(w, "", http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, `{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[60,"1"],[120,"NaN"],[180,"2.5"]]}]}}`)
	}))
	defer s.Close()
	c := promrange.Config{URL: s.URL, Query: "x", Step: time.Minute, Token: "secret"}
	got, err := promrange.Ask(t.Context(), c, time.Unix(60, 0), time.Unix(180, 0))
	want := []demand.Point{{At: time.Unix(60, 0), Value: 1}, {At: time.Unix(180, 0), Value: 2.5}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" || asked != 1 {
		t.Errorf("%v, asked %d times (-want +got):\n%s", err, asked, diff)
	}
	c.Token = "wrong"
	if _, err := promrange.Ask(t.Context(), c, time.Unix(60, 0), time.Unix(180, 0)); err == nil || strings.Contains(err.Error(), "wrong") {
		t.Errorf("a token that is refused: %v", err)
	}
}
