package ipmi_test

import (
	"testing"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/ipmi"
	"github.com/gpupool/gpupool/internal/power/ipmi/ipmitest"
	"github.com/gpupool/gpupool/internal/power/powertest"
)

const wrongPassword = "not-the-password"

// simulators are the BMCs that the driver is tested against.
var simulators = map[string]func(testing.TB) *ipmitest.BMC{
	"ipmi_sim suite 3":   ipmitest.OpenIPMI,
	"reference suite 17": ipmitest.Reference,
}

func TestContract(t *testing.T) {
	for name, start := range simulators {
		t.Run(name, func(t *testing.T) {
			powertest.Run(t, powertest.Rig{
				Start:       func(t *testing.T) powertest.Controller { return controller(t, start(t)) },
				Secret:      ipmitest.Password,
				WrongSecret: wrongPassword,
				Frames:      []string{"internal/power/ipmi.", "go-ipmi/pkg/client."},
				Lacks: map[string]string{
					"no capacity":       "a BMC's host is there",
					"no secret in argv": "the driver starts no process",
				},
			})
		})
	}
}

// config reaches a BMC through a link, with no rest between calls.
func config(b *ipmitest.BMC, l *ipmitest.Link) ipmi.Config {
	return ipmi.Config{
		Address:     l.Addr.String(),
		Username:    ipmitest.Username,
		Password:    ipmitest.Password,
		CipherSuite: &b.Suite,
		MinInterval: "0s",
	}
}

// controller shows a BMC behind a link to the suite.
func controller(t *testing.T, b *ipmitest.BMC) powertest.Controller {
	l := ipmitest.NewLink(t, b.Addr)
	open := func(password power.Secret) func() (power.Driver, error) {
		return func() (power.Driver, error) {
			c := config(b, l)
			c.Password = password
			return ipmi.New(c)
		}
	}
	return powertest.Controller{
		Open:       open(ipmitest.Password),
		OpenWrong:  open(wrongPassword),
		Power:      b.Power,
		SetPower:   b.SetPower,
		Executions: b.Executions,
		Logins:     func() int { return l.Count(ipmitest.RAKP1) },
		Hang:       b.Hang,
		Late:       b.Late,
		Refuse:     b.Refuse,
		NoSoftOff:  b.NoSoftOff,
		BlackHole:  func() { l.Lose(func(ipmitest.Packet) bool { return true }) },
		HalfOpen:   func() { l.Lose(func(p ipmitest.Packet) bool { return p.Kind == ipmitest.RAKP4 }) },
		LoseAnswers: func() {
			l.Lose(func(p ipmitest.Packet) bool {
				return p.Flow == 1 && p.Kind == ipmitest.Command && p.Reply && p.N >= powerOn
			})
		},
		Stop: func() { b.Stop(); l.Close() },
	}
}

// The requests inside of a session, in order, if none is repeated: see
// [ipmitest.Packet.N].
const (
	setPrivilege  = 1
	powerOn       = 2
	closeAfterOn  = 3
	chassisStatus = 2
	powerOff      = 3
)
