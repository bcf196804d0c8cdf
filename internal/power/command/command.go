// Package command powers hosts by running programs: for power strips, virtual
// machines, vendors' tools and whatever else has no driver of its own.
//
// # What a program gets
//
// Its arguments as configured. On standard input one JSON object, such as
//
//	{"version":1,"action":"on","host":"gpu-07","address":"10.0.9.17",
//	 "username":"gpupool","password":"…","timeout_s":29.9}
//
// with action one of state, on, off_soft and off_hard, and timeout_s the
// seconds until it is killed. Of the environment only PATH, HOME, LANG and TZ,
// since that of an autoscaler holds tokens; the working directory is /.
//
// # What a program answers
//
// By its exit code:
//
//	 0  done. For a change: accepted, the host may still be booting or
//	    stopping. For state: standard output is the word on or off.
//	 3  this controller can never do that (LSB's "unimplemented feature").
//	69  the controller was not reached, nothing was changed (EX_UNAVAILABLE).
//	71  on only: there is no machine to give now, or the quota is used up, and
//	    nothing was changed (EX_OSERR, as when a system cannot fork).
//	75  the controller said no, nothing was changed (EX_TEMPFAIL).
//	77  the controller refused the credential (EX_NOPERM).
//
// Any other end of a change, a signal or the deadline included, means that its
// outcome is not known. Any other end of state means that it was not reached.
//
// At the deadline the program's process group is killed. Of each of standard
// output and error 64 KiB are kept, and the begin of the latter is quoted in
// errors. A change is run once; on and off are not run at all on a host that
// is in that state already.
package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
)

// The exit codes that mean something, besides 0.
const (
	ExitUnsupported = 3  // LSB: unimplemented feature
	ExitUnreachable = 69 // sysexits.h: EX_UNAVAILABLE
	ExitCapacity    = 71 // sysexits.h: EX_OSERR; of on only
	ExitRefused     = 75 // sysexits.h: EX_TEMPFAIL
	ExitAuth        = 77 // sysexits.h: EX_NOPERM
)

const (
	maxOutput = 64 << 10 // bytes kept of standard output, and of standard error
	// pipeDelay is how long a program's output is awaited after its end, for
	// one that leaves a child with its pipes behind.
	pipeDelay = time.Second
)

// action is what a program is run for: its key in [Config], and what it reads
// in its request.
type action string

const (
	readState action = "state"
	turnOn    action = "on"
	softOff   action = "off_soft"
	hardOff   action = "off_hard"
)

// request is the JSON on a program's standard input.
type request struct {
	Version  int     `json:"version"`
	Action   action  `json:"action"`
	Host     string  `json:"host,omitempty"`
	Address  string  `json:"address,omitempty"`
	Username string  `json:"username,omitempty"`
	Password string  `json:"password,omitempty"`
	TimeoutS float64 `json:"timeout_s"`
}

// Driver runs the programs of one host, one at a time.
type Driver struct {
	config    settings
	identity  string
	turnstile *power.Turnstile
}

// New returns the driver of one host. It runs nothing, but looks whether the
// programs are there.
func New(c Config) (*Driver, error) {
	s, err := c.parse()
	if err != nil {
		return nil, err
	}
	var errs []error
	for action, argv := range s.argv {
		path, err := exec.LookPath(argv[0])
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w: install it where the autoscaler runs, make it executable, or correct its path", action, err))
			continue
		}
		argv[0] = path
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Driver{config: s, identity: c.Identity(), turnstile: power.NewTurnstile(s.limits)}, nil
}

// Identity names what is powered: see [Config.Identity].
func (d *Driver) Identity() string { return d.identity }

// String is the identity, so that printing a driver prints no credential.
func (d *Driver) String() string { return d.identity }

// GoString is the identity too.
func (d *Driver) GoString() string { return d.identity }

// State runs the state command.
func (d *Driver) State(ctx context.Context) (found pool.Power, err error) {
	err = d.turnstile.Pass(ctx, func(ctx context.Context) error {
		found, err = d.state(ctx)
		return err
	})
	return found, d.name(readState, err)
}

// On runs the on command, unless state says that the host is on.
func (d *Driver) On(ctx context.Context) error { return d.change(ctx, turnOn, pool.PowerOn) }

// Off runs the off_soft or the off_hard command, unless state says that the
// host is off.
func (d *Driver) Off(ctx context.Context, how power.Off) error {
	if how == power.Hard {
		return d.change(ctx, hardOff, pool.PowerOff)
	}
	return d.change(ctx, softOff, pool.PowerOff)
}

// Close kills the program that is running, if any, and refuses later calls.
func (d *Driver) Close() error {
	d.turnstile.Close()
	return nil
}

func (d *Driver) change(ctx context.Context, what action, want pool.Power) error {
	err := d.turnstile.Pass(ctx, func(ctx context.Context) error {
		if found, err := d.state(ctx); err != nil || found == want {
			return err
		}
		if what == turnOn && d.config.start != nil {
			return d.config.start(ctx)
		}
		if d.config.argv[what] == nil {
			return fmt.Errorf("%w: no %s command is configured", power.ErrUnsupported, what)
		}
		_, err := d.run(ctx, what, power.ErrAmbiguous)
		return err
	})
	return d.name(what, err)
}

func (d *Driver) state(ctx context.Context) (pool.Power, error) {
	out, err := d.run(ctx, readState, power.ErrUnreachable)
	if err != nil {
		return pool.PowerUnknown, err
	}
	found := parseState(out)
	if found == pool.PowerUnknown {
		return found, fmt.Errorf("%w: it printed %q, want on or off", power.ErrUnreachable, d.brief(out))
	}
	return found, nil
}

// parseState reads the output of a state command: the word on or off, in
// either case, with space around it. All else is unknown.
func parseState(out []byte) pool.Power {
	switch strings.ToLower(string(bytes.TrimSpace(out))) {
	case "on":
		return pool.PowerOn
	case "off":
		return pool.PowerOff
	}
	return pool.PowerUnknown
}

// run runs a program once. An end that has no meaning of its own is of the
// class given.
func (d *Driver) run(ctx context.Context, what action, otherwise error) ([]byte, error) {
	argv := d.config.argv[what]
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	stdin, err := d.stdin(ctx, what)
	if err != nil {
		return nil, fmt.Errorf("%w: nothing was run: %w", power.ErrUnreachable, err)
	}
	var stdout, stderr head
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	cmd.Env, cmd.Dir = environment(), "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	cmd.WaitDelay = pipeDelay

	if err := cmd.Start(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("%w: nothing was run: %w", power.ErrUnreachable, err)
	}
	err = cmd.Wait()
	if err == nil || (errors.Is(err, exec.ErrWaitDelay) && cmd.ProcessState.Success()) {
		return stdout.kept, nil
	}
	reason := err.Error()
	class, known := meanings[cmd.ProcessState.ExitCode()]
	if !known || errors.Is(class, power.ErrCapacity) && what != turnOn {
		class = otherwise
		if ctx.Err() != nil {
			reason = fmt.Sprintf("killed: %v", context.Cause(ctx))
		}
	}
	if said := d.brief(stderr.kept); said != "" {
		reason += ": " + said
	}
	return nil, fmt.Errorf("%w: %s: %s", class, argv[0], reason)
}

// meanings are the classes of the exit codes that have one.
var meanings = map[int]error{
	ExitUnsupported: power.ErrUnsupported,
	ExitUnreachable: power.ErrUnreachable,
	ExitCapacity:    power.ErrCapacity,
	ExitRefused:     power.ErrRefused,
	ExitAuth:        power.ErrAuth,
}

// stdin is the request of one run.
func (d *Driver) stdin(ctx context.Context, what action) ([]byte, error) {
	r := d.config.request
	r.Action, r.Password = what, d.config.password.Reveal()
	if deadline, ok := ctx.Deadline(); ok {
		r.TimeoutS = time.Until(deadline).Round(time.Millisecond).Seconds()
	}
	text, err := json.Marshal(r)
	return append(text, '\n'), err
}

// name adds whose command it was to an error.
func (d *Driver) name(what action, err error) error {
	if err == nil {
		return nil
	}
	host := d.config.request.Host
	if host == "" {
		host = d.config.request.Address
	}
	return fmt.Errorf("%s %s: %s: %w", d.config.driver, host, what, err)
}

// environment is what a program gets of ours.
func environment() []string {
	env := make([]string, 0, 4)
	for _, name := range []string{"PATH", "HOME", "LANG", "TZ"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// head keeps the begin of what is written to it, and takes the rest so that
// the writer does not block.
type head struct{ kept []byte }

func (h *head) Write(p []byte) (int, error) {
	room := maxOutput - len(h.kept)
	h.kept = append(h.kept, p[:min(room, len(p))]...)
	return len(p), nil
}

// brief quotes what a program said: one line, printable, not long, without the
// password as it is and as the program read it.
func (d *Driver) brief(said []byte) string {
	const most = 200
	text := string(said)
	if password := d.config.password.Reveal(); password != "" {
		quoted, _ := json.Marshal(password)
		text = strings.NewReplacer(
			string(quoted[1:len(quoted)-1]), "(redacted)",
			password, "(redacted)",
		).Replace(text)
	}
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}), " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// killGroup kills a program and the children that it started in its group.
func killGroup(pid int) error {
	err := syscall.Kill(-pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

var _ power.Driver = (*Driver)(nil)
