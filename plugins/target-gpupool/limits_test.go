package main

import (
	"reflect"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/inventory"
)

// TestEveryLimitIsSet: a limit that pools.hcl has and the loop never hears of
// would be a promise that nobody keeps.
func TestEveryLimitIsSet(t *testing.T) {
	var p inventory.Pool
	v := reflect.ValueOf(&p).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.Int, reflect.Int64:
			f.SetInt(int64(time.Duration(i+1) * time.Second))
		case reflect.Bool:
			f.SetBool(true)
		}
	}
	p.Agent = inventory.AgentNone
	limits := reflect.ValueOf(limitsOf(p))
	for i := range limits.NumField() {
		if limits.Field(i).IsZero() {
			t.Errorf("%s is not set", limits.Type().Field(i).Name)
		}
	}
}

func TestMaxOfNoneIsNone(t *testing.T) {
	if l := limitsOf(inventory.Pool{Spare: 1}); l.Spare != 0 {
		t.Errorf("a pool without any host on keeps %d spare ones", l.Spare)
	}
}
