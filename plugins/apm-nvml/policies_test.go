package main

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/gpupool/gpupool/internal/inventory"
	"github.com/gpupool/gpupool/internal/plainhcl"
	"github.com/gpupool/gpupool/internal/queue/sources"
	"github.com/gpupool/gpupool/internal/signal"
	"github.com/gpupool/gpupool/internal/strategy"
)

// The policies that people copy ask for signals that there are, of the pools and
// queues that are beside them, give the strategy settings that it takes, and say
// min and max to both.
func TestPolicies(t *testing.T) {
	inv, err := inventory.Load("../../jobs/pools.hcl", withoutPower)
	if err != nil {
		t.Fatal(err)
	}
	var known signal.Known
	for _, p := range inv.Pools {
		known.Pools = append(known.Pools, p.Name)
	}
	text, err := os.ReadFile("../../jobs/queues.hcl")
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range regexp.MustCompile(`"env:(\w+)"`).FindAllSubmatch(text, -1) {
		t.Setenv(string(ref[1]), "secret")
	}
	queues, err := sources.Parse("queues.hcl", text)
	if err != nil {
		t.Fatal(err)
	}
	defer queues.Close()
	for _, q := range queues.Queues {
		known.Queues = append(known.Queues, q.Name)
	}

	files, err := filepath.Glob("../../jobs/policies/*.hcl")
	if err != nil || len(files) < 3 {
		t.Fatalf("policies %q, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		body, problems := plainhcl.Parse(file, text)
		if err := problems.Err(); err != nil {
			t.Fatal(err)
		}
		for _, scaling := range blocks(body, "scaling") {
			for _, policy := range blocks(scaling, "policy") {
				if len(blocks(policy, "target")) != 1 || len(blocks(policy, "check")) == 0 {
					t.Errorf("%s: a policy has a target, and a check", file)
				}
				for _, b := range policy.Blocks { // nomad-target is how Nomad Autoscaler 0.5.0 calls its own
					if b.Type == "target" && b.Labels[0] != "gpupool" && b.Labels[0] != "nomad-target" {
						t.Errorf("%s: there is no target %q", file, b.Labels[0])
					}
				}
				for _, check := range blocks(policy, "check") {
					checkPolicy(t, file, known, values(t, file, scaling), check)
				}
			}
		}
	}
}

func checkPolicy(t *testing.T, file string, known signal.Known, scaling map[string]string, check *hclsyntax.Body) {
	t.Helper()
	c := values(t, file, check)
	q, err := signal.Parse(c["query"], known)
	if err != nil {
		t.Errorf("%s: %v", file, err)
		return
	}
	if q.Record() == "" {
		t.Errorf("%s: no history is kept of %s", file, q)
	}
	window, err := time.ParseDuration(c["query_window"])
	if err != nil || window < 14*24*time.Hour || window > keepDays*24*time.Hour {
		t.Errorf("%s: query_window %q, want two to four weeks", file, c["query_window"])
	}
	given := values(t, file, blocks(check, "strategy")[0])
	if _, err := strategy.Read(nil, given); err != nil {
		t.Errorf("%s: %v", file, err)
	}
	if given["min"] != scaling["min"] || given["max"] != scaling["max"] {
		t.Errorf("%s: the strategy is told min %s and max %s, the policy has %s and %s", file, given["min"], given["max"], scaling["min"], scaling["max"])
	}
}

func blocks(body *hclsyntax.Body, kind string) []*hclsyntax.Body {
	var out []*hclsyntax.Body
	for _, b := range body.Blocks {
		if b.Type == kind {
			out = append(out, b.Body)
		}
	}
	return out
}

func values(t *testing.T, file string, body *hclsyntax.Body) map[string]string {
	t.Helper()
	given, problems := plainhcl.Given(body, file, "")
	if err := problems.Err(); err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string, len(given))
	for key, v := range given {
		out[key] = v.Text
	}
	return out
}
