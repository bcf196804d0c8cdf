// Package drivers is the table of power drivers: the one place that knows them
// all. A new driver is a folder beside this one and a line in [Kinds]; the tests
// here then ask for good settings of it, its row of the matrix, which comes from
// running package powertest's suite with -update, and its section in the
// reference. A driver of a cloud is an API of package cloud, and passes the suite
// of package cloudtest besides.
package drivers

import (
	"fmt"
	"strings"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/command"
	"github.com/gpupool/gpupool/internal/power/ec2"
	"github.com/gpupool/gpupool/internal/power/gce"
	"github.com/gpupool/gpupool/internal/power/hcloud"
	"github.com/gpupool/gpupool/internal/power/ipmi"
	"github.com/gpupool/gpupool/internal/power/openstack"
	"github.com/gpupool/gpupool/internal/power/redfish"
	"github.com/gpupool/gpupool/internal/power/wol"
)

// Decode fills a driver's config struct, which has gohcl tags, from a host's
// power settings. Credentials come resolved.
type Decode = func(into any) error

// Kind is one power driver.
type Kind struct {
	// Name is the label of its power block.
	Name string
	// Doc says in a line what it powers hosts through.
	Doc string
	// Check reads a host's settings and returns the identity of its power
	// controller, so that two hosts with one controller can be told. It does
	// no I/O. The error joins all mistakes, each begun by its key and a colon.
	Check func(Decode) (identity string, err error)
	// New returns the driver of a host. It sends nothing.
	New func(Decode) (power.Driver, error)
}

// Kinds returns all drivers, by name.
func Kinds() []Kind {
	return []Kind{
		kind("command", "a program of yours", command.New),
		kind("ec2", "an instance of Amazon EC2", ec2.New),
		kind("gce", "an instance of Google Compute Engine", gce.New),
		kind("hcloud", "a server of Hetzner Cloud", hcloud.New),
		kind("ipmi", "the host's BMC, over IPMI 2.0 (RMCP+)", ipmi.New),
		kind("openstack", "a server of OpenStack Nova", openstack.New),
		kind("redfish", "the host's BMC, over Redfish (HTTPS)", redfish.New),
		kind("wol", "a magic packet, and programs of yours to read the power and switch it off", wol.New),
	}
}

// Check is the check of the driver of that name: see [Kind].
func Check(name string, decode Decode) (identity string, err error) {
	k, err := find(name)
	if err != nil {
		return "", err
	}
	return k.Check(decode)
}

// New returns a host's driver of that name: see [Kind].
func New(name string, decode Decode) (power.Driver, error) {
	k, err := find(name)
	if err != nil {
		return nil, err
	}
	return k.New(decode)
}

func find(name string) (Kind, error) {
	var names []string
	for _, k := range Kinds() {
		if k.Name == name {
			return k, nil
		}
		names = append(names, k.Name)
	}
	return Kind{}, fmt.Errorf("there is no power driver %q: there are %s", name, strings.Join(names, ", "))
}

// config is what each driver's config struct can do, by its pointer.
type config[C any] interface {
	*C
	Validate() error
	Identity() string
}

// kind makes a table line of a driver's constructor.
func kind[C any, P config[C], D power.Driver](name, doc string, open func(C) (D, error)) Kind {
	return Kind{
		Name: name,
		Doc:  doc,
		Check: func(decode Decode) (string, error) {
			var c C
			if err := decode(P(&c)); err != nil {
				return "", err
			}
			if err := P(&c).Validate(); err != nil {
				return "", err
			}
			return P(&c).Identity(), nil
		},
		New: func(decode Decode) (power.Driver, error) {
			var c C
			if err := decode(P(&c)); err != nil {
				return nil, err
			}
			d, err := open(c)
			if err != nil {
				return nil, err // not d: a nil *D is no nil Driver
			}
			return d, nil
		},
	}
}
