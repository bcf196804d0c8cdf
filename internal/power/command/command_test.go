package command_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/command"
	"github.com/gpupool/gpupool/internal/power/powertest"
)

const (
	rightPassword = "command-Pass1"
	wrongPassword = "not-the-password"
)

func TestContract(t *testing.T) {
	const noNetwork = "a program has no network of its own: what it cannot reach, it reports"
	powertest.Run(t, powertest.Rig{
		Start:       func(t *testing.T) powertest.Controller { return newBox(t).controller() },
		Secret:      rightPassword,
		WrongSecret: wrongPassword,
		Frames:      []string{"internal/power/command.", "os/exec."},
		Lacks: map[string]string{
			"black hole": noNetwork,
			"half-open":  noNetwork,
		},
	})
}

// box is a directory with testdata/controller.sh and its files.
type box struct {
	t   *testing.T
	dir string
}

func newBox(t *testing.T) box {
	t.Helper()
	b := box{t, t.TempDir()}
	script, err := os.ReadFile("testdata/controller.sh")
	if err != nil {
		t.Fatal(err)
	}
	b.write("controller.sh", string(script))
	for _, name := range []string{"executed", "logins", "argv"} {
		b.write(name, "")
	}
	b.write("power", "off\n")
	b.fault("", "")
	return b
}

func (b box) path(name string) string { return filepath.Join(b.dir, name) }

func (b box) write(name, text string) {
	b.t.Helper()
	if err := os.WriteFile(b.path(name), []byte(text), 0o755); err != nil {
		b.t.Fatal(err)
	}
}

func (b box) read(name string) string {
	b.t.Helper()
	text, err := os.ReadFile(b.path(name))
	if err != nil {
		b.t.Fatal(err)
	}
	return string(text)
}

// fault sets shell text to run before and after each change.
func (b box) fault(before, after string) {
	b.write("fault", fmt.Sprintf("before_change() {\n:\n%s\n}\nafter_change() {\n:\n%s\n}\n", before, after))
}

func (b box) config() command.Config {
	run := func(action string) []string { return []string{b.path("controller.sh"), action, b.dir} }
	return command.Config{
		Host: "gpu-07", Address: "10.0.9.17", Username: "gpupool", Password: rightPassword,
		State: run("state"), On: run("on"), OffSoft: run("off_soft"), OffHard: run("off_hard"),
	}
}

func (b box) controller() powertest.Controller {
	open := func(password power.Secret) func() (power.Driver, error) {
		return func() (power.Driver, error) {
			c := b.config()
			c.Password = password
			return command.New(c)
		}
	}
	lines := func(name string) func() int {
		return func() int { return strings.Count(b.read(name), "\n") }
	}
	return powertest.Controller{
		Open:      open(rightPassword),
		OpenWrong: open(wrongPassword),
		Power: func() pool.Power {
			if strings.TrimSpace(b.read("power")) == "on" {
				return pool.PowerOn
			}
			return pool.PowerOff
		},
		SetPower:    func(p pool.Power) { b.write("power", p.String()+"\n") },
		Executions:  lines("executed"),
		Logins:      lines("logins"),
		Hang:        func() { b.write("fault", "sleep 1000\n") },
		LoseAnswers: func() { b.fault("", "sleep 1000") },
		Late:        func(d time.Duration) { b.fault(fmt.Sprintf("sleep %.3f", d.Seconds()), "") },
		NoSoftOff:   func() { b.fault(`[ "$1" = off_soft ] && exit 3`, "") },
		NoCapacity:  func() { b.fault(`[ "$1" = on ] && exit 71`, "") },
		Refuse:      func() { b.fault("exit 75", "") },
		Stop: func() {
			if err := os.Remove(b.path("controller.sh")); err != nil {
				b.t.Fatal(err)
			}
		},
		Argv: func() []string { return strings.Split(strings.TrimSpace(b.read("argv")), "\n") },
	}
}

func (b box) driver(change ...func(*command.Config)) *command.Driver {
	b.t.Helper()
	c := b.config()
	for _, f := range change {
		f(&c)
	}
	d, err := command.New(c)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		end           string // shell text
		change, state error
	}{
		{"exit 3", power.ErrUnsupported, power.ErrUnsupported},
		{"exit 69", power.ErrUnreachable, power.ErrUnreachable},
		{"exit 71", power.ErrCapacity, power.ErrUnreachable},
		{"exit 75", power.ErrRefused, power.ErrRefused},
		{"exit 77", power.ErrAuth, power.ErrAuth},
		{"exit 1", power.ErrAmbiguous, power.ErrUnreachable},
		{"exit 127", power.ErrAmbiguous, power.ErrUnreachable},
		{"kill -9 $$", power.ErrAmbiguous, power.ErrUnreachable},
	} {
		t.Run(c.end, func(t *testing.T) {
			b := newBox(t)
			b.fault("echo the reason >&2; "+c.end, "")
			err := b.driver().On(powertest.Within(t, 20*time.Second))
			if !errors.Is(err, c.change) || !strings.Contains(fmt.Sprint(err), "the reason") {
				t.Errorf("On: %v, want the class %q and the reason", err, c.change)
			}
			b.write("fault", c.end+"\n")
			if found, err := b.driver().State(powertest.Within(t, 20*time.Second)); !errors.Is(err, c.state) || found != pool.PowerUnknown {
				t.Errorf("State: %s, %v, want the class %q", found, err, c.state)
			}
		})
	}
}

// That there is no capacity can be said of a power-on alone.
func TestNoCapacityToPowerOff(t *testing.T) {
	b := newBox(t)
	b.write("power", "on\n")
	b.fault("exit 71", "")
	if err := b.driver().Off(powertest.Within(t, 20*time.Second), power.Soft); !errors.Is(err, power.ErrAmbiguous) || errors.Is(err, power.ErrCapacity) {
		t.Errorf("soft off: %v, want ambiguous", err)
	}
}

func TestCommandsThatAreNotConfigured(t *testing.T) {
	b := newBox(t)
	b.write("power", "on\n")
	d := b.driver(func(c *command.Config) { c.OffSoft = nil })
	if err := d.Off(powertest.Within(t, 20*time.Second), power.Soft); !errors.Is(err, power.ErrUnsupported) {
		t.Errorf("soft off: %v, want unsupported", err)
	}
	if err := d.Off(powertest.Within(t, 20*time.Second), power.Hard); err != nil {
		t.Errorf("hard off: %v", err)
	}
}

// The whole process group goes at the deadline, not only the program.
func TestDeadlineKillsTheGroup(t *testing.T) {
	b := newBox(t)
	b.fault("sleep 1000 & echo $! >"+b.path("child")+"; wait", "")
	err := b.driver().On(powertest.Within(t, time.Second))
	if !errors.Is(err, power.ErrAmbiguous) {
		t.Errorf("On: %v, want ambiguous", err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(b.read("child")))
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); running(child); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the program's child %d still runs", child)
		}
	}
}

// running says whether a process exists and is not a zombie.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ") && syscall.Kill(pid, 0) == nil
}

// A program that leaves a child behind which holds its output does not hold the
// call up, and the child lives: it may be the host.
func TestChildLeftBehind(t *testing.T) {
	b := newBox(t)
	b.fault("", "sleep 1000 & echo $! >"+b.path("child"))
	ctx := powertest.Within(t, 20*time.Second)
	if err := b.driver().On(ctx); err != nil {
		t.Errorf("On: %v", err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(b.read("child")))
	if err != nil {
		t.Fatal(err)
	}
	if !running(child) {
		t.Error("the child was killed")
	}
	_ = syscall.Kill(child, syscall.SIGKILL)
}

func TestHugeOutput(t *testing.T) {
	b := newBox(t)
	b.write("fault", "yes on | head -c 50000000; yes wrong | head -c 50000000 >&2; exit 1\n")
	_, err := b.driver().State(powertest.Within(t, 60*time.Second))
	if !errors.Is(err, power.ErrUnreachable) || len(fmt.Sprint(err)) > 1000 {
		t.Errorf("State: %.2000v", err)
	}
}

func TestWhatTheProgramGets(t *testing.T) {
	t.Setenv("CONSUL_HTTP_TOKEN", "token-of-the-autoscaler")
	b := newBox(t)
	b.write("fault", "env >"+b.path("env")+"; pwd >"+b.path("cwd")+"; echo \"$request\" >"+b.path("request")+"\n")
	if _, err := b.driver().State(powertest.Within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	if env := b.read("env"); strings.Contains(env, "token-of-the-autoscaler") || !strings.Contains(env, "PATH=") {
		t.Errorf("its environment is\n%s", env)
	}
	if cwd := strings.TrimSpace(b.read("cwd")); cwd != "/" {
		t.Errorf("it runs in %s", cwd)
	}
	request := b.read("request")
	for _, want := range []string{`"version":1`, `"action":"state"`, `"host":"gpu-07"`, `"address":"10.0.9.17"`, `"username":"gpupool"`, `"password":"` + rightPassword, `"timeout_s":`} {
		if !strings.Contains(request, want) {
			t.Errorf("no %s in its request %s", want, request)
		}
	}
}

// A program that quotes its request, or the password, spills neither.
func TestSecretInOutput(t *testing.T) {
	const nasty = `pass"word\<1>`
	b := newBox(t)
	b.write("controller.sh", "#!/bin/sh\ncat; cat /proc/self/environ >&2; echo 'got pass\"word\\<1>' >&2; exit $2\n")
	for _, code := range []string{"0", "1"} {
		d := b.driver(func(c *command.Config) {
			c.Password = nasty
			c.State = []string{b.path("controller.sh"), "state", code}
		})
		_, err := d.State(powertest.Within(t, 20*time.Second))
		if text := fmt.Sprintf("%v %+v", err, d); err == nil || strings.Contains(text, `pass"`) || strings.Contains(text, "<1>") {
			t.Errorf("exit %s: %s", code, text)
		}
	}
}

func TestProgramNotThere(t *testing.T) {
	c := newBox(t).config()
	c.On = []string{"/no/such/program"}
	c.OffHard = []string{"no-such-program"}
	_, err := command.New(c)
	for _, want := range []string{"on: ", "/no/such/program", "off_hard: ", "no-such-program", "install it"} {
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("New: %v, want %q", err, want)
		}
	}
}
