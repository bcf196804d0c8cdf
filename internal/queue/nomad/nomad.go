// Package nomad counts the dispatched instances of a parameterized Nomad job:
// those that wait for room, and those that run.
package nomad

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/dial"
	"github.com/gpupool/gpupool/internal/secret"
	"github.com/gpupool/gpupool/internal/setting"
)

// Config is a job.
type Config struct {
	Address   string // URL
	Region    string // empty is that of the server
	Namespace string
	Job       string
	Token     secret.Ref // empty is none
	TLS       dial.TLS
}

// Kind is the line of package sources.
func Kind() queue.Kind {
	return queue.KindOf(queue.Kind{
		Name: "nomad-dispatch", Doc: "the dispatched instances of a parameterized Nomad job",
		Targets: []string{"target"}, Shared: dial.Keys,
		KEDA: dial.KEDA,
	}, Declare, New)
}

// Declare reads the settings.
func Declare(r *setting.Reader) Config {
	return Config{
		Address:   r.URL("address", "http://127.0.0.1:4646", "Nomad's HTTP API."),
		Job:       r.String("job", "", "ID of the parameterized job, or the periodic one. Of the jobs that it was dispatched as, those that are pending wait, and those that are running run. A dispatched job that was stopped or is done does not count.", setting.NotEmpty()),
		Namespace: r.String("namespace", "default", "Namespace of the job.", setting.NotEmpty()),
		Region:    r.String("region", "", "Region of the job. Without it, that of the server."),
		Token:     r.Secret("token", "ACL token, which needs `read-job` in the namespace. Without it, none is sent."),
		TLS:       dial.DeclareTLS(r),
	}
}

// Source is one job.
type Source struct {
	cfg    Config
	client *dial.Client
	api    *api.Client
}

// New makes a source. It sends nothing.
func New(cfg Config) (*Source, error) {
	client, err := dial.NewClient(cfg.TLS, dial.Auth{})
	if err != nil {
		return nil, err
	}
	// Not DefaultConfig: the environment's token and certificates are for
	// another Nomad, maybe.
	ac, err := api.NewClient(&api.Config{Address: cfg.Address, Region: cfg.Region, Namespace: cfg.Namespace, HttpClient: client.HTTP, TLSConfig: new(api.TLSConfig)})
	if err != nil {
		return nil, err
	}
	return &Source{cfg, client, ac}, nil
}

// Read asks Nomad's leader for the job's summary.
func (s *Source) Read(ctx context.Context) (queue.Reading, error) {
	defer s.client.Wire.Call(ctx)()
	q := &api.QueryOptions{Region: s.cfg.Region, Namespace: s.cfg.Namespace}
	var secrets []string
	if s.cfg.Token != "" {
		token, err := s.cfg.Token.Resolve()
		if err != nil {
			return queue.Reading{}, queue.Fail(queue.ErrAuth, err.Error())
		}
		q.AuthToken, secrets = token, []string{token}
	}
	summary, _, err := s.api.Jobs().Summary(s.cfg.Job, q.WithContext(ctx))
	if err != nil {
		return queue.Reading{}, s.fail(ctx, err, secrets)
	}
	if summary.JobID != s.cfg.Job {
		return queue.Reading{}, queue.Fail(queue.ErrInvalid, fmt.Sprintf("the answer is about job %.80q, not %q", summary.JobID, s.cfg.Job))
	}
	var children api.JobChildrenSummary
	if summary.Children != nil {
		children = *summary.Children
	}
	if children.Pending == 0 && children.Running == 0 {
		// Jobs of other kinds have no children either.
		job, _, err := s.api.Jobs().Info(s.cfg.Job, q.WithContext(ctx))
		if err != nil {
			return queue.Reading{}, s.fail(ctx, err, secrets)
		}
		if !job.IsParameterized() && !job.IsPeriodic() {
			return queue.Reading{}, queue.Fail(queue.ErrRefused, fmt.Sprintf("job %q is not parameterized, so nothing is dispatched of it", s.cfg.Job))
		}
	}
	running := float64(children.Running)
	return queue.Reading{Waiting: float64(children.Pending), Running: &running}, nil
}

func (s *Source) fail(ctx context.Context, err error, secrets []string) error {
	return queue.Fail(classOf(ctx, err), fmt.Sprintf("job %q in namespace %q: %v", s.cfg.Job, s.cfg.Namespace, err), secrets...)
}

func classOf(ctx context.Context, err error) error {
	var answer api.UnexpectedResponseError
	if !errors.As(err, &answer) || !answer.HasStatusCode() {
		if class := dial.Class(ctx, err); class != nil {
			return class
		}
		return queue.ErrInvalid
	}
	if class := dial.StatusClass(answer.StatusCode()); class != nil {
		return class
	}
	if answer.StatusCode() == http.StatusOK {
		return queue.ErrInvalid
	}
	return queue.ErrUnreachable
}

// Close closes the connections.
func (s *Source) Close() error { return s.client.Close() }
