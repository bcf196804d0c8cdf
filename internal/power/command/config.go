package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/power"
)

// Defaults of [Config].
const (
	DefaultTimeout     = 30 * time.Second
	DefaultAuthBackoff = 30 * time.Minute
)

// Config is the commands that power one host, as the host's power block says
// it. Each command is a program and its arguments; no shell reads them. In
// arguments, {host} and {address} stand for the values of those keys.
//
// What a program gets and answers: see the package documentation.
type Config struct {
	// Host is the name that {host} stands for.
	Host string `hcl:"host,optional"`
	// Address is what {address} stands for: the address of whatever the
	// program talks to. At least one of Host and Address is set.
	Address string `hcl:"address,optional"`
	// Username and Password reach the program on its standard input, never in
	// its arguments or environment.
	Username string       `hcl:"username,optional"`
	Password power.Secret `hcl:"password,optional"`

	// State prints "on" or "off".
	State []string `hcl:"state"`
	// On powers the host on.
	On []string `hcl:"on"`
	// OffSoft asks the operating system to shut down. Without it, soft-off is
	// unsupported.
	OffSoft []string `hcl:"off_soft,optional"`
	// OffHard cuts the power. Without it, hard-off is unsupported.
	OffHard []string `hcl:"off_hard,optional"`

	// Timeout is the longest that one call may take, whatever its caller
	// allows: 1s to 10m, default 30s. A call that changes the power runs two
	// programs, State first.
	Timeout string `hcl:"timeout,optional"`
	// MinInterval is the least time between two calls: 0s to 1m, default 0s.
	MinInterval string `hcl:"min_interval,optional"`
	// AuthBackoff is how long no program is run after one reported that the
	// credential was refused: 1m to 24h, default 30m.
	AuthBackoff string `hcl:"auth_backoff,optional"`

	// Start powers the host on in the place of the On program, and Driver is
	// what errors then call the driver. They are for drivers that differ from
	// this one in how a host is powered on, as package wol does. Start is run
	// once in a call, when State says that the host is off, and its error is of
	// one of the classes of package power.
	Start  func(context.Context) error
	Driver string
}

// Validate reports every mistake of the config in one error, each with its
// key and its mend. It does no I/O: whether the programs are there is for
// [New] to say.
func (c *Config) Validate() error {
	_, err := c.parse()
	return err
}

// Identity names what is powered, so that two hosts with one controller can
// be told: the program, the address and the host.
func (c Config) Identity() string {
	program := ""
	if len(c.On) > 0 {
		program = c.On[0]
	}
	return strings.Join([]string{"command", program, c.Address, c.Host}, ":")
}

// settings is a Config that was found right.
type settings struct {
	request  request // without action, password and time
	password power.Secret
	argv     map[action][]string
	limits   power.Limits
	start    func(context.Context) error // nil for the on program
	driver   string
}

func (c *Config) parse() (settings, error) {
	s := settings{
		request:  request{Version: 1, Host: c.Host, Address: c.Address, Username: c.Username},
		password: c.Password,
		argv:     make(map[action][]string),
		start:    c.Start,
		driver:   cmp.Or(c.Driver, "command"),
	}
	var errs []error
	wrong := func(key string, mistakes ...error) {
		for _, err := range mistakes {
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", key, err))
			}
		}
	}

	wrong("host", checkName(c.Host))
	wrong("address", checkName(c.Address))
	if c.Host == "" && c.Address == "" {
		wrong("address", errors.New("is empty, and so is host: set one, so that the program can tell which host it is run for"))
	}
	names := map[string]string{"{host}": c.Host, "{address}": c.Address}
	for _, t := range []struct {
		action   action
		template []string
		required bool
	}{
		{readState, c.State, true},
		{turnOn, c.On, c.Start == nil},
		{softOff, c.OffSoft, false},
		{hardOff, c.OffHard, false},
	} {
		if len(t.template) == 0 {
			if t.required {
				wrong(string(t.action), errors.New(`is empty: write the program and its arguments as a list, such as ["/usr/local/sbin/pdu", "{address}"]`))
			}
			continue
		}
		argv, mistakes := expand(t.template, names)
		wrong(string(t.action), mistakes...)
		s.argv[t.action] = argv
	}
	if len(c.OffSoft) == 0 && len(c.OffHard) == 0 {
		wrong("off_soft", errors.New("is empty, and so is off_hard: set one, or hosts could only be powered on"))
	}

	duration := func(key, text string, def, least, most time.Duration) time.Duration {
		d, err := power.ParseDuration(text, def, least, most)
		wrong(key, err)
		return d
	}
	s.limits = power.Limits{
		Timeout:     duration("timeout", c.Timeout, DefaultTimeout, time.Second, 10*time.Minute),
		MinInterval: duration("min_interval", c.MinInterval, 0, 0, time.Minute),
		AuthBackoff: duration("auth_backoff", c.AuthBackoff, DefaultAuthBackoff, time.Minute, 24*time.Hour),
	}
	return s, errors.Join(errs...)
}

// nameRule is what a host or an address may be. It starts with no dash, so
// that no program takes one for an option.
var nameRule = regexp.MustCompile(`^[\pL\pN_\[][\pL\pN_.:%/@\[\]-]*$`)

func checkName(name string) error {
	if name == "" || (len(name) <= 255 && nameRule.MatchString(name)) {
		return nil
	}
	return fmt.Errorf("%.60q is not a name or an address of at most 255 letters, digits and -_.:%%/@[]", name)
}

var placeholder = regexp.MustCompile(`\{[a-z_]+\}`)

// expand fills the placeholders of a command in.
func expand(template []string, names map[string]string) (argv []string, mistakes []error) {
	wrong := func(format string, args ...any) { mistakes = append(mistakes, fmt.Errorf(format, args...)) }
	program := template[0]
	switch {
	case program == "":
		wrong("has an empty program")
	case strings.Contains(program, "/") && !filepath.IsAbs(program):
		wrong("%q is a relative path: write the full one", program)
	case placeholder.MatchString(program):
		wrong("%q has a placeholder: the program is the same for all hosts, only arguments differ", program)
	}
	argv = []string{program}
	for _, arg := range template[1:] {
		if strings.ContainsRune(arg, 0) {
			wrong("an argument contains a NUL byte")
		}
		argv = append(argv, placeholder.ReplaceAllStringFunc(arg, func(p string) string {
			value, known := names[p]
			switch {
			case p == "{password}":
				wrong("{password} is refused: anyone on the machine can read arguments; read the password from the JSON on standard input")
			case !known:
				wrong("%s is not a placeholder: there are {host} and {address}", p)
			case value == "":
				wrong("%s is used, and %s is not set", p, strings.Trim(p, "{}"))
			}
			return value
		}))
	}
	return argv, mistakes
}
