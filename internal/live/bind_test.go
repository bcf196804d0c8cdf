package live

import (
	"reflect"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/inventory"
	"github.com/gpupool/gpupool/internal/pool"
)

// fill sets every number, truth value and text to something.
func fill(v reflect.Value) {
	for i := range v.NumField() {
		switch f := v.Field(i); {
		case !f.CanSet():
		case f.Kind() == reflect.Int || f.Kind() == reflect.Int64:
			f.SetInt(int64(time.Duration(i+1) * time.Second))
		case f.Kind() == reflect.Float64:
			f.SetFloat(float64(i + 1))
		case f.Kind() == reflect.Bool:
			f.SetBool(true)
		case f.Kind() == reflect.String:
			f.SetString("x")
		}
	}
}

// TestEveryLimitIsSet: a limit that pools.hcl has and the loop never hears of
// would be a promise that nobody keeps.
func TestEveryLimitIsSet(t *testing.T) {
	var p inventory.Pool
	var c inventory.Class
	var k inventory.Rack
	fill(reflect.ValueOf(&p).Elem())
	fill(reflect.ValueOf(&c).Elem())
	fill(reflect.ValueOf(&k).Elem())
	p.Agent, p.DrainWork = inventory.AgentNone, inventory.DrainAll
	p.Classes, p.Racks = []inventory.Class{c}, []inventory.Rack{k}
	limits := Limits(p)
	for what, v := range map[string]any{"Limits": limits, "Class": limits.Classes["x"]} {
		all := reflect.ValueOf(v)
		for i := range all.NumField() {
			if f := all.Type().Field(i); f.IsExported() && all.Field(i).IsZero() {
				t.Errorf("%s of %s is not set", f.Name, what)
			}
		}
	}
	if limits.Budgets["x"] == 0 {
		t.Error("the rack's budget is not set")
	}
}

func TestMaxOfNoneIsNone(t *testing.T) {
	l := Limits(inventory.Pool{Spare: 1})
	d := pool.Reconcile(time.Now(), 2, pool.Snapshot{Hosts: []pool.View{{Host: pool.Host{ID: "a"}}}}, l)
	if d.Want != 0 {
		t.Errorf("a pool of which no host may be on wants %d", d.Want)
	}
}

// TestEveryHostIsBound: what pools.hcl says of a host reaches the loop.
func TestEveryHostIsBound(t *testing.T) {
	var h inventory.Host
	fill(reflect.ValueOf(&h).Elem())
	for _, host := range Blind(inventory.Pool{Hosts: []inventory.Host{h}}, "not asked") {
		v := reflect.ValueOf(host.Host)
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				t.Errorf("%s is not set", v.Type().Field(i).Name)
			}
		}
		if host.Blind == "" {
			t.Error("it is not said why its power is not known")
		}
	}
	var rules []pool.WorkRule
	for _, words := range []string{inventory.DrainNone, inventory.DrainServices, inventory.DrainAll} {
		rules = append(rules, Limits(inventory.Pool{DrainWork: words}).DrainWork)
	}
	if !reflect.DeepEqual(rules, []pool.WorkRule{pool.DrainNone, pool.DrainServices, pool.DrainAll}) {
		t.Errorf("got %v", rules)
	}
}
