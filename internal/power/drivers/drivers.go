// Package drivers is the table of power drivers.
package drivers

import (
	"fmt"
	"strings"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/ipmi"
)

// Kind is one driver.
type Kind struct {
	Name string
	Doc  string
	open func(decode func(into any) error) (d func() (power.Driver, error), controller string, err error)
}

// kinds is every driver. A new one is a folder beside this one, and a row here.
var kinds = []Kind{
	{"ipmi", "IPMI v2.0 over RMCP+", kind(func(c *ipmi.Config) (power.Driver, error) { return ipmi.New(*c) })},
}

// config is what a driver's configuration can do.
type config interface {
	Validate() error
	Identity() string
}

// kind makes an opener from a driver's constructor.
func kind[C any, P interface {
	*C
	config
}](make func(P) (power.Driver, error)) func(func(any) error) (func() (power.Driver, error), string, error) {
	return func(decode func(into any) error) (func() (power.Driver, error), string, error) {
		c := P(new(C))
		if err := decode(c); err != nil {
			return nil, "", err
		}
		if err := c.Validate(); err != nil {
			return nil, "", err
		}
		return func() (power.Driver, error) { return make(c) }, c.Identity(), nil
	}
}

// Check reads a host's power configuration as its driver does, and returns the
// identity of the controller that it reaches.
func Check(name string, decode func(into any) error) (controller string, err error) {
	_, controller, err = open(name, decode)
	return controller, err
}

// New makes a host's driver. It does no I/O.
func New(name string, decode func(into any) error) (power.Driver, error) {
	d, _, err := open(name, decode)
	if err != nil {
		return nil, err
	}
	return d()
}

func open(name string, decode func(into any) error) (func() (power.Driver, error), string, error) {
	var known []string
	for _, k := range kinds {
		if k.Name == name {
			return k.open(decode)
		}
		known = append(known, k.Name)
	}
	return nil, "", fmt.Errorf("there is no power driver %q; known are %s", name, strings.Join(known, ", "))
}
