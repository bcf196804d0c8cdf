package instance

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/engine"
	"github.com/gpupool/gpupool/internal/setting"
)

// metaPrefix begins the keys of a job's metadata that are for the agent.
const metaPrefix = "gpupool."

// Two words that stand in the place of a profile's name.
const (
	engineAuto = "auto" // find out
	engineOff  = "off"  // no model server, whatever it looks like
)

// settings are what a job says of its model server in its metadata. Those of
// the task win over those of the group, and these over those of the job.
type settings struct {
	engine       string
	port         string // label; empty is the profile's likeliest
	metricsPort  string
	metricsPath  string
	healthPath   string
	service      string
	slots        int
	from         map[engine.Measure]engine.Selector
	warmUpPath   string
	warmUpBody   string
	warmUpTime   time.Duration
	warmingLimit time.Duration
}

// maxBody bounds a warm-up request.
const maxBody = 16 << 10

// declare reads the settings. Each has its row on the reference page.
func declare(r *setting.Reader) settings {
	rules := DefaultRules()
	s := settings{
		engine: r.OneOf("engine", engineAuto, "The model server's profile. `auto` takes it from the image or the command, and if these say nothing from the server's first metrics; `off` means that the agent leaves it alone.",
			append([]string{engineAuto, engineOff}, engine.Names()...)...),
		port:         r.String("port", "", "Label of the port for requests. By default the likeliest of the group's ports: `http`, `api`, or the only one."),
		metricsPort:  r.String("metrics_port", "", "Label of the port for metrics, if it is another."),
		metricsPath:  r.String("metrics_path", "", "Path of the metrics, if not the profile's.", path),
		healthPath:   r.String("health_path", "", "Path that answers 200 when the server is ready, if not the profile's.", path),
		service:      r.String("service", "", "What stands for the job in the name of its Consul service. By default the job's ID.", label),
		slots:        r.Int("slots", 0, "How many requests an instance can work on at a time, where the server does not tell. 0: not known.", setting.Between(0, 1_000_000)),
		warmUpPath:   r.String("warm_up_path", "", "Path that a warm-up request is POSTed to, once for each start of the server, before it gets any other. Empty: none is.", path),
		warmUpBody:   r.String("warm_up_body", "", "Body of the warm-up request, JSON.", setting.Rule[string]{Text: "up to 16 KiB", OK: func(s string) bool { return len(s) <= maxBody }}),
		warmUpTime:   r.Duration("warm_up_timeout", time.Minute, "How long the answer to the warm-up request may take.", setting.Between(time.Second, 30*time.Minute)),
		warmingLimit: r.Duration("warming_limit", rules.WarmingLimit, "How long an instance may take to become ready before it is unhealthy.", setting.Between(10*time.Second, 24*time.Hour)),
		from:         map[engine.Measure]engine.Selector{},
	}
	for _, m := range engine.Measures {
		text := r.String("metric_"+string(m.Measure), "", "The "+form(m.Kind)+" that tells: "+lowerFirst(m.Doc), selector)
		if from, err := engine.ParseSelector(text); err == nil {
			s.from[m.Measure] = from
		}
	}
	return s
}

func form(k engine.Kind) string {
	return [...]string{"gauge", "counter", "histogram"}[k]
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }

var (
	path = setting.Rule[string]{Text: "a path that begins with /", OK: func(s string) bool {
		return s == "" || strings.HasPrefix(s, "/") && !strings.HasPrefix(s, "//") && !strings.ContainsAny(s, " \t\r\n\\#")
	}}
	selector = setting.Rule[string]{Text: "a metric or a JSON pointer", OK: func(s string) bool {
		_, err := engine.ParseSelector(s)
		return s == "" || err == nil
	}}
	label = setting.Rule[string]{Text: "lower-case letters, digits and dashes", OK: func(s string) bool { return s == "" || s == nameOf(s) }}
)

// readSettings reads the metadata of a task, merged by its levels. An error has
// all mistakes; the settings that are right stand.
func readSettings(subject string, levels ...map[string]string) (settings, error) {
	given := map[string]setting.Given{}
	for _, meta := range levels {
		for _, key := range slices.Sorted(maps.Keys(meta)) {
			if name, ours := strings.CutPrefix(key, metaPrefix); ours {
				given[name] = setting.Given{Text: meta[key]}
			}
		}
	}
	r := setting.NewReader(setting.Place{Subject: subject}, given)
	s := declare(r)
	r.Finish(nil)
	return s, r.Problems().Err()
}

// apply changes a profile as the settings say.
func (s settings) apply(p engine.Profile) engine.Profile {
	if s.healthPath != "" {
		p.Health = s.healthPath
	}
	if s.metricsPath != "" {
		if p.Metrics != "" || p.JSON == "" {
			p.Metrics = s.metricsPath
		} else {
			p.JSON = s.metricsPath
		}
	}
	if len(s.from) > 0 {
		p.From = maps.Clone(p.From)
		if p.From == nil {
			p.From = map[engine.Measure][]engine.Selector{}
		}
		for m, from := range s.from {
			p.From[m] = []engine.Selector{from}
		}
	}
	return p
}

// ServiceName is the Consul service of a job's instances. pattern has {job} in
// it, which stands for what the job may choose; the rest is the operator's, so no
// job can take another service's name.
func ServiceName(pattern, job, namespace string) string {
	if namespace != "" && namespace != "default" {
		job += "-" + namespace
	}
	job = nameOf(job)
	if most := maxLabel - len(pattern) + len("{job}"); len(job) > most {
		job = strings.Trim(job[:max(1, most)], "-")
	}
	return strings.ReplaceAll(pattern, "{job}", orElse(job, "job"))
}

// CheckPattern says what is wrong with a pattern for [ServiceName].
func CheckPattern(pattern string) error {
	rest := strings.Replace(pattern, "{job}", "", 1)
	switch {
	case strings.Count(pattern, "{job}") != 1:
		return errors.New("want {job} in it once, which stands for the job's ID, as in {job}-warm")
	case rest == "":
		return errors.New("want more than {job}, as in {job}-warm: a job could take any service's name")
	case len(rest) > 32 || strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz0123456789-") != "":
		return fmt.Errorf("want up to 32 lower-case letters, digits and dashes besides {job}")
	}
	return nil
}

// maxLabel is how long a label of a DNS name may be.
const maxLabel = 63

// nameOf makes a label of a DNS name from a text.
func nameOf(text string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(text) {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			b.WriteRune(r)
		default:
			b.WriteByte('-')
		}
		if b.Len() >= maxLabel {
			break
		}
	}
	return strings.Trim(b.String(), "-")
}
