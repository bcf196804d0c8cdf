package redfish_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/powertest"
	"github.com/gpupool/gpupool/internal/power/redfish"
	"github.com/gpupool/gpupool/internal/power/redfish/redfishtest"
)

const wrongPassword = "not-the-password"

func TestContract(t *testing.T) {
	for _, auth := range []string{"basic", "session"} {
		t.Run(auth, func(t *testing.T) {
			powertest.Run(t, powertest.Rig{
				Start: func(t *testing.T) powertest.Controller {
					return controller(redfishtest.Start(t, redfishtest.Options{}), auth)
				},
				Secret:      redfishtest.Password,
				WrongSecret: wrongPassword,
				Frames:      []string{"internal/power/redfish.", "gofish", "net/http.(*persistConn)", "net/http.(*Transport)"},
				Lacks: map[string]string{
					"no capacity":       "a BMC's host is there",
					"no secret in argv": "the driver starts no process",
				},
			})
		})
	}
}

// config reaches a service, with no rest between calls.
func config(s *redfishtest.Service) redfish.Config {
	return redfish.Config{
		Address:     s.URL,
		Username:    redfishtest.Username,
		Password:    redfishtest.Password,
		CAFile:      s.CAFile,
		MinInterval: "0s",
	}
}

// controller shows a service to the suite.
func controller(s *redfishtest.Service, auth string) powertest.Controller {
	open := func(password power.Secret) func() (power.Driver, error) {
		return func() (power.Driver, error) {
			c := config(s)
			c.Password, c.Auth = password, auth
			return redfish.New(c)
		}
	}
	return powertest.Controller{
		Open:        open(redfishtest.Password),
		OpenWrong:   open(wrongPassword),
		Power:       s.Power,
		SetPower:    s.SetPower,
		Executions:  s.Executions,
		Logins:      s.Logins,
		Hang:        s.Hang,
		LoseAnswers: s.LoseAnswers,
		Late:        s.Late,
		Slow:        s.Transit,
		BlackHole:   s.BlackHole,
		HalfOpen:    s.HalfOpen,
		Stop:        s.Stop,
		NoSoftOff:   func() { s.Offer("On", "ForceOff", "PushPowerButton", "GracefulRestart", "PowerCycle") },
		Refuse: func() {
			s.Refuse(http.StatusConflict, "Base.1.18.ResourceInUse", "The change failed because the resource is in use.")
		},
	}
}

// open returns a driver of a service, with changes to its config.
func open(t *testing.T, s *redfishtest.Service, change ...func(*redfish.Config)) *redfish.Driver {
	t.Helper()
	c := config(s)
	for _, f := range change {
		f(&c)
	}
	d, err := redfish.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func sessions(c *redfish.Config) { c.Auth = "session" }

const plenty = 20 * time.Second

// wantText ends the test unless err says all the words.
func wantText(t *testing.T, err error, words ...string) {
	t.Helper()
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("the error is %v, want %q in it", err, w)
		}
	}
}
