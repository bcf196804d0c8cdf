package powertest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"

	"github.com/gpupool/gpupool/internal/power"
)

// ConfigRig is the config of a driver, for [RunConfig].
type ConfigRig[C any] struct {
	// HCL are power blocks that are right and together set every key.
	HCL []string
	// Secrets are what no print and no error may show, of HCL and Cases.
	Secrets []string
	// Good sets the required keys only.
	Good C
	// Cases are changes to Good.
	Cases []ConfigCase[C]
	// Wrong is wrong in all the keys of WrongIn.
	Wrong   C
	WrongIn []string
	// New opens a driver, and must refuse what Validate does.
	New func(C) (power.Driver, error)
}

// ConfigCase is one way to write a config.
type ConfigCase[C any] struct {
	Name   string
	Change func(*C)
	Want   string // in the error of Validate, empty if there is no mistake
}

// config is what a driver's config struct can do, by its pointer.
type config[C any] interface {
	*C
	Validate() error
	Identity() string
}

// RunConfig holds a driver's config to what all of them promise: every key is
// read, unknown ones are refused, all mistakes are reported together, each with
// its key, and no credential is printed.
func RunConfig[C any, P config[C]](t *testing.T, rig ConfigRig[C]) {
	t.Run("settings", func(t *testing.T) { configHCL[C, P](t, rig) })
	if err := P(&rig.Good).Validate(); err != nil {
		t.Errorf("a config of the required keys only: %v", err)
	}
	for _, c := range rig.Cases {
		t.Run(c.Name, func(t *testing.T) {
			changed := rig.Good
			c.Change(&changed)
			err := P(&changed).Validate()
			switch {
			case c.Want == "" && err != nil:
				t.Errorf("Validate: %v", err)
			case c.Want != "" && !strings.Contains(fmt.Sprint(err), c.Want):
				t.Errorf("Validate: %v, want %q", err, c.Want)
			}
			rig.hides(t, "Validate", fmt.Sprint(err))
			if err != nil {
				d, newErr := rig.New(changed)
				if newErr == nil {
					_ = d.Close()
					t.Errorf("New takes what Validate refuses: %v", err)
				}
				rig.hides(t, "New", fmt.Sprint(newErr))
			}
		})
	}
	t.Run("all mistakes at once", func(t *testing.T) {
		text := "\n" + fmt.Sprint(P(&rig.Wrong).Validate())
		for _, key := range rig.WrongIn {
			if !strings.Contains(text, "\n"+key+": ") {
				t.Errorf("no line on %s in %s", key, text)
			}
		}
	})
}

// configHCL decodes the blocks of a rig.
func configHCL[C any, P config[C]](t *testing.T, rig ConfigRig[C]) {
	schema, _ := gohcl.ImpliedBodySchema(new(C))
	unset := make(map[string]bool)
	for _, a := range schema.Attributes {
		unset[a.Name] = true
	}
	for _, text := range rig.HCL {
		var c C
		body := parse(t, text)
		if diags := gohcl.DecodeBody(body, nil, &c); diags.HasErrors() {
			t.Fatal(diags)
		}
		attributes, _ := body.JustAttributes()
		for key := range attributes {
			delete(unset, key)
		}
		if err := P(&c).Validate(); err != nil {
			t.Errorf("Validate: %v", err)
		}
		if P(&c).Identity() == "" {
			t.Error("it has no identity")
		}
		rig.hides(t, "the config", fmt.Sprintf("%v %+v %#v %s", c, c, c, P(&c).Identity()))
		if diags := gohcl.DecodeBody(parse(t, text+"\nno_such_key = 3\n"), nil, &c); !strings.Contains(diags.Error(), "no_such_key") {
			t.Errorf("an unknown key: %v, want an error that names it", diags)
		}
	}
	for key := range unset {
		t.Errorf("no settings of this test set %s", key)
	}
}

func parse(t *testing.T, text string) hcl.Body {
	t.Helper()
	file, diags := hclparse.NewParser().ParseHCL([]byte(text), "pools.hcl")
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return file.Body
}

func (rig ConfigRig[C]) hides(t *testing.T, what, text string) {
	t.Helper()
	if slices.ContainsFunc(rig.Secrets, func(s string) bool { return strings.Contains(text, s) }) {
		t.Errorf("%s spills a credential: %s", what, text)
	}
}
