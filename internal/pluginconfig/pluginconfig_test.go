package pluginconfig

import (
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/setting"
)

func declare(r Reader) (pool string, lead time.Duration) {
	pool = r.String("pool", "", "The pool to size.", setting.NotEmpty())
	lead = r.Duration("lead_time", 5*time.Minute, "From power-on to a ready host.", setting.Between(time.Second, time.Hour))
	return pool, lead
}

func TestRead(t *testing.T) {
	// What the autoscaler adds to a plugin's own settings in the three maps.
	r := Read("strategy-predictive", map[string]string{
		"pool":                           "h100",
		"lead_time":                      "90s",
		"nomad_address":                  "http://127.0.0.1:4646",
		"nomad_block-query-wait-time":    "5m",
		"nomad_config_inherit":           "true",
		"_nomad_autoscaler_grpc_timeout": "7.5s",
		"node_class":                     "gpu",
		"node_pool":                      "gpu",
		"datacenter":                     "dc1",
		"dry-run":                        "true",
		"Job":                            "infer",
		"Group":                          "vllm",
		"Namespace":                      "default",
	})
	pool, lead := declare(r)
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	if pool != "h100" || lead != 90*time.Second {
		t.Errorf("got %q, %v", pool, lead)
	}
}

func TestErrHasAllMistakes(t *testing.T) {
	r := Read("strategy-predictive", map[string]string{"lead_time": "90", "pol": "h100", "nomad_token": "s3cret"})
	declare(r)
	want := `3 mistakes:
  strategy-predictive: pool: is required and not there; add it: text, not empty
  strategy-predictive: lead_time: "90" has no unit; write "90s", "90m" or "90h"
  strategy-predictive: pol: there is no such setting; did you mean "pool"?`
	if err := r.Err(); err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

func TestDoc(t *testing.T) {
	r := Read("strategy-predictive", nil)
	declare(r)
	want := `| Key | Value | Default | What it does |
|---|---|---|---|
| ` + "`pool` | text, not empty | required | The pool to size. |\n| `lead_time` | duration, 1s to 1h | `5m` | From power-on to a ready host. |\n"
	if got := r.Doc(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}
