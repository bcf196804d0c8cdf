package pool

import (
	"math"
	"strings"
	"testing"
)

func TestLimitsReportsAllMistakesAtOnce(t *testing.T) {
	err := Limits{Min: -1}.Validate()
	if err == nil {
		t.Fatal("the zero limits cannot work and were accepted")
	}
	for _, key := range []string{"min", "max_booting", "max_draining", "power_confirm", "boot_timeout", "soft_off_timeout", "stale_after", "fence"} {
		if !strings.Contains(err.Error(), key) {
			t.Errorf("%s is not named in: %v", key, err)
		}
	}
	err = Limits{
		Classes: map[string]Class{"h100": {BootWatts: -1, Cost: -1, Standby: -1}}, Budgets: map[string]float64{"rack-a": math.NaN()},
	}.Validate()
	for _, key := range []string{"boot_watts", "cost", "standby", "rack-a"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s is not named in: %v", key, err)
		}
	}
	if err := testLimits().Validate(); err != nil {
		t.Errorf("good limits: %v", err)
	}
}
