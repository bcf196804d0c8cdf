// Package powertest is the suite that every power driver passes. It holds a
// driver to the contract of [power.Driver] against a controller that the
// driver's own tests bring: one that can be looked at, and broken, behind the
// driver's back.
package powertest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
)

// Rig is a kind of controller to hold a driver to the contract with.
type Rig struct {
	// Start returns a fresh controller that answers and whose chassis is off.
	// It ends what it started at the end of the test.
	Start func(t *testing.T) Controller
	// Secret is the right credential and WrongSecret the wrong one. Neither
	// may show in an error.
	Secret, WrongSecret string
	// Frames are parts of function names, such as "internal/power/ipmi.", that
	// are in the stack of each goroutine that the driver started.
	Frames []string
	// Lacks names the cases of the suite that this kind of controller cannot
	// have, each with the reason. For every other case the controller brings
	// the hooks that it needs, or the suite fails.
	Lacks map[string]string
}

// Controller is one power controller under test, seen from behind. The hooks
// that break it hold until the end of the case.
type Controller struct {
	// Open returns a new driver with the right credential.
	Open func() (power.Driver, error)
	// Power is the true chassis power, read without the driver.
	Power func() pool.Power
	// SetPower changes it, as the button on the host would.
	SetPower func(pool.Power)
	// Executions is the number of changes carried out so far. An off is one
	// whatever the chassis was, since it may come late and hit a host that has
	// work again. A power-on of a chassis that is on is none.
	Executions func() int

	// OpenWrong returns a new driver with the wrong credential.
	OpenWrong func() (power.Driver, error)
	// Logins is the number of logins begun so far.
	Logins func() int
	// Hang makes the controller accept requests and answer none.
	Hang func()
	// LoseAnswers makes the controller carry out changes whose answers are
	// lost. Reads are answered.
	LoseAnswers func()
	// Late makes the controller carry out changes, and answer them, only after
	// so long. Reads before a change are answered.
	Late func(time.Duration)
	// Slow makes the chassis take so long to get from off to on and back. It is
	// on its way meanwhile, where the controller tells. It may be nil.
	Slow func(time.Duration)
	// BlackHole makes everything sent to the controller vanish.
	BlackHole func()
	// HalfOpen makes the controller answer the beginning of each conversation
	// and then no more.
	HalfOpen func()
	// Stop ends the controller: nothing is there any more.
	Stop func()
	// NoSoftOff makes the controller one that has no soft-off.
	NoSoftOff func()
	// NoCapacity makes the controller one that has no machine left to power on.
	NoCapacity func()
	// Refuse makes the controller refuse every change.
	Refuse func()
	// Argv returns the arguments of every process that the driver started.
	Argv func() []string
}

// hooks are the hooks by name, with whether the controller brings them.
func (c Controller) hooks() map[string]bool {
	return map[string]bool{
		"Argv":        c.Argv != nil,
		"BlackHole":   c.BlackHole != nil,
		"HalfOpen":    c.HalfOpen != nil,
		"Hang":        c.Hang != nil,
		"Late":        c.Late != nil,
		"Logins":      c.Logins != nil,
		"LoseAnswers": c.LoseAnswers != nil,
		"NoCapacity":  c.NoCapacity != nil,
		"NoSoftOff":   c.NoSoftOff != nil,
		"OpenWrong":   c.OpenWrong != nil,
		"Refuse":      c.Refuse != nil,
		"Stop":        c.Stop != nil,
	}
}

// Within is a context that ends after d, or with the test.
func Within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// Run holds a driver to the contract. Each case is a subtest with a controller
// of its own. What became of each is in the log of t, and what the rig says of
// each is in [RowFile], from which the matrix of driver and case is made.
func Run(t *testing.T, rig Rig) {
	lacks := maps.Clone(rig.Lacks)
	results := newResults()
	t.Cleanup(func() { t.Logf("%s\n%s", t.Name(), results) })
	for _, c := range cases {
		if why, ok := lacks[c.name]; ok {
			delete(lacks, c.name)
			results.set(c.name, Lacking+why)
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			results.set(c.name, "did not end")
			t.Cleanup(func() { results.set(c.name, result(t)) })
			if !c.alone { // parallel cases wait until the others are done
				t.Parallel()
			}
			runCase(t, rig, c)
		})
	}
	if len(lacks) > 0 {
		t.Errorf("the rig lacks cases that the suite does not have: %s", strings.Join(slices.Sorted(maps.Keys(lacks)), ", "))
	}
	if err := checkRow(rig, *Update); err != nil {
		t.Error(err)
	}
}

func runCase(t *testing.T, rig Rig, c contract) {
	controller := rig.Start(t)
	have := controller.hooks()
	for _, hook := range c.needs {
		if !have[hook] {
			t.Fatalf("the controller brings no %s, and its rig does not say in Lacks why %q cannot be had", hook, c.name)
		}
	}
	c.run(newBench(t, rig, controller))
}

// contract is one sentence of the contract.
type contract struct {
	name  string
	run   func(*bench)
	needs []string // hooks
	alone bool     // must not run beside other cases
}

var cases = []contract{
	{name: "state tells the truth", run: stateTellsTheTruth},
	{name: "on", run: on},
	{name: "on when on", run: onWhenOn},
	{name: "soft off", run: softOff},
	{name: "soft off when off", run: softOffWhenOff},
	{name: "hard off", run: hardOff},
	{name: "hard off when off", run: hardOffWhenOff},
	{name: "slow boot", run: slowBoot},
	{name: "state flaps", run: stateFlaps},
	{name: "calls at once", run: callsAtOnce},
	{name: "deadline passed before", run: deadlinePassedBefore},
	{name: "cancelled", run: cancelled, needs: []string{"Hang"}},
	{name: "hung", run: hung, needs: []string{"Hang"}},
	{name: "black hole", run: blackHole, needs: []string{"BlackHole"}},
	{name: "half-open", run: halfOpen, needs: []string{"HalfOpen"}},
	{name: "nothing there", run: nothingThere, needs: []string{"Stop"}},
	{name: "answer lost", run: answerLost, needs: []string{"LoseAnswers"}},
	{name: "answer late", run: answerLate, needs: []string{"Late"}},
	{name: "wrong password", run: wrongPassword, needs: []string{"OpenWrong", "Logins"}},
	{name: "no soft off", run: noSoftOff, needs: []string{"NoSoftOff"}},
	{name: "no capacity", run: noCapacity, needs: []string{"NoCapacity"}},
	{name: "refused", run: refused, needs: []string{"Refuse"}},
	{name: "closed", run: closed},
	{name: "closed after a failed call", run: closedAfterFailure, needs: []string{"Hang"}},
	{name: "no goroutine left", run: noGoroutineLeft, needs: []string{"Hang"}, alone: true},
	{name: "no secret in argv", run: noSecretInArgv, needs: []string{"Argv"}},
}

// check is what must be true of every error.
func (b *bench) check(what string, err error) {
	b.t.Helper()
	if err == nil {
		return
	}
	b.checkText(what, fmt.Sprintf("%v %+v %#v", err, err, err))
	if strings.Contains(err.Error(), "\n") {
		b.t.Errorf("%s: the error is longer than a line: %q", what, err)
	}
}

// checkText is what must be true of everything that may be printed.
func (b *bench) checkText(what, text string) {
	b.t.Helper()
	for _, secret := range []string{b.rig.Secret, b.rig.WrongSecret} {
		if secret != "" && strings.Contains(text, secret) {
			b.t.Errorf("%s spills the credential: %s", what, strings.ReplaceAll(text, secret, "*****"))
		}
	}
}
