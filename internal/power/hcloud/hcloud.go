// Package hcloud powers servers of Hetzner Cloud on and off, with Hetzner's own
// client, hcloud-go. A server that is off is billed as one that is on.
//
// What is sent and when is said in package cloud. On is the action poweron,
// soft-off shutdown, which servers may ignore, and hard-off poweroff. Each goes
// on after it was accepted, and is watched for a moment: that there is no
// capacity may show there. One server is read by its number, several by listing
// all of the project, since the API has nothing between.
package hcloud

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/hetznercloud/hcloud-go/v2/hcloud"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/cloud"
	"github.com/gpupool/gpupool/internal/power/https"
)

const (
	connections = 8
	most        = 1000 // servers in a read, which lists all anyway
	perPage     = 50   // what the API allows
	pages       = 40   // of one list
)

// New returns the driver of one server. It reads the CA file, and sends
// nothing.
func New(c Config) (*cloud.Driver, error) {
	s, err := c.parse()
	if err != nil {
		return nil, err
	}
	id := strconv.FormatInt(c.Server, 10)
	return cloud.New(cloud.Config{
		Driver: "hcloud", ID: id, Where: "server " + id, Identity: c.Identity(),
		Account: s, Open: func() (cloud.API, error) { return newAPI(s) }, Trust: s.trust, Most: most, Limits: s.limits,
	})
}

// api is one project.
type api struct {
	settings settings
	http     *http.Client
	client   *hcloud.Client
}

func newAPI(s settings) (*api, error) {
	client, err := s.trust.Client(connections, &s.endpoint)
	if err != nil {
		return nil, err
	}
	return &api{settings: s, http: client, client: hcloud.NewClient(
		hcloud.WithEndpoint(s.endpoint.String()), hcloud.WithToken(s.token.Reveal()), hcloud.WithHTTPClient(client),
		hcloud.WithRetryOpts(hcloud.RetryOpts{BackoffFunc: hcloud.ConstantBackoff(0), MaxRetries: 0}),
	)}, nil
}

// Close closes connections.
func (a *api) Close() { a.http.CloseIdleConnections() }

// Read reads servers.
func (a *api) Read(ctx context.Context, ids []string) (map[string]cloud.Instance, error) {
	found := make(map[string]cloud.Instance, len(ids))
	ctx, seen := https.Watch(ctx)
	if len(ids) == 1 {
		server, _, err := a.client.Server.GetByID(ctx, number(ids[0]))
		switch {
		case err != nil:
			return nil, a.failure(seen, err, false)
		case server != nil && server.ID != number(ids[0]):
			return nil, a.failure(seen, errNonsense, false)
		case server != nil:
			found[ids[0]] = read(server)
		}
		return found, nil
	}
	for page := 1; page <= pages; page++ {
		servers, resp, err := a.client.Server.List(ctx, hcloud.ServerListOpts{ListOpts: hcloud.ListOpts{Page: page, PerPage: perPage}})
		switch {
		case err != nil:
			return nil, a.failure(seen, err, false)
		case resp == nil || resp.Meta.Pagination == nil:
			return nil, a.failure(seen, errNonsense, false)
		}
		for _, s := range servers {
			found[strconv.FormatInt(s.ID, 10)] = read(s)
		}
		if resp.Meta.Pagination.NextPage == 0 {
			return found, nil
		}
	}
	return nil, fmt.Errorf("%w: its list goes on for more than %d pages", power.ErrUnreachable, pages)
}

// number is an ID as the API has it.
func number(id string) int64 {
	n, _ := strconv.ParseInt(id, 10, 64) // it was made of one
	return n
}

// phases are the states of a server: "Servers" in the API's documentation.
var phases = map[hcloud.ServerStatus]cloud.Phase{
	hcloud.ServerStatusInitializing: cloud.Starting,
	hcloud.ServerStatusStarting:     cloud.Starting,
	hcloud.ServerStatusRunning:      cloud.On,
	hcloud.ServerStatusStopping:     cloud.Stopping,
	hcloud.ServerStatusOff:          cloud.Off,
	hcloud.ServerStatusMigrating:    cloud.Busy,
	hcloud.ServerStatusRebuilding:   cloud.Busy,
	hcloud.ServerStatusDeleting:     cloud.Leaving,
}

func read(s *hcloud.Server) cloud.Instance {
	return cloud.Instance{Phase: phases[s.Status], State: string(s.Status)}
}

// Start powers a server on.
func (a *api) Start(ctx context.Context, id string, _ cloud.Instance) error {
	return a.change(ctx, id, a.client.Server.Poweron)
}

// Stop shuts a server down, or cuts its power.
func (a *api) Stop(ctx context.Context, id string, _ cloud.Instance, how power.Off) error {
	if how == power.Hard {
		return a.change(ctx, id, a.client.Server.Poweroff)
	}
	return a.change(ctx, id, a.client.Server.Shutdown)
}

// Rights is not told by the API: a token is for reading, or for reading and
// writing, and does not say which.
func (a *api) Rights(context.Context, string) ([]string, error) {
	return nil, fmt.Errorf("%w: Hetzner Cloud does not say whether a token may write; make it one for reading and writing", power.ErrUnsupported)
}

// change makes a change and watches what becomes of it.
func (a *api) change(ctx context.Context, id string, act func(context.Context, *hcloud.Server) (*hcloud.Action, *hcloud.Response, error)) error {
	watched, seen := https.Watch(ctx)
	action, _, err := act(watched, &hcloud.Server{ID: number(id)})
	if err == nil && (action == nil || action.ID == 0) {
		err = errNonsense
	}
	if err != nil {
		return a.failure(seen, err, true)
	}
	if over, err := a.ended(action); over {
		return err
	}
	return cloud.Follow(ctx, a.settings.wait, func(ctx context.Context) (bool, error) {
		now, _, err := a.client.Action.GetByID(ctx, action.ID)
		if err != nil || now == nil {
			return false, nil //nolint:nilerr // that it cannot be read does not end it
		}
		return a.ended(now)
	})
}

// ended says whether an action is over, and how.
func (a *api) ended(action *hcloud.Action) (bool, error) {
	if action.Status == hcloud.ActionStatusError {
		return true, rules.Failure(cloud.Answer{
			Change: true, Seen: new(https.Exchange), Code: action.ErrorCode, Text: action.ErrorMessage,
			Else: power.ErrRefused, Secrets: []power.Secret{a.settings.token},
		})
	}
	return action.Status == hcloud.ActionStatusSuccess, nil
}

// errNonsense is an answer that is not about what was asked.
var errNonsense = errors.New("no reply of Hetzner Cloud to this request")

// failure classifies what the client returned for the last request.
func (a *api) failure(seen *https.Exchange, err error, change bool) error {
	answer := cloud.Answer{Change: change, Seen: seen, Secrets: []power.Secret{a.settings.token}}
	if said := (hcloud.Error{}); errors.As(err, &said) {
		answer.Code, answer.Text = string(said.Code), said.Message
	} else {
		answer.Err = seen.Cause(err)
	}
	return rules.Failure(answer)
}

// rules are the error codes: "Errors" in the API's documentation.
var rules = cloud.Rules{
	cloud.Means(power.ErrCapacity, "Hetzner has none of this type left in the location", string(hcloud.ErrorCodeResourceUnavailable), string(hcloud.ErrorCodePlacementError), "no_space_left_in_location"),
	cloud.Means(power.ErrCapacity, "the project's limit is reached; ask Hetzner for more", string(hcloud.ErrorCodeResourceLimitExceeded)),
	cloud.TooOften(string(hcloud.ErrorCodeRateLimitExceeded)),
	cloud.Means(power.ErrAuth, "the token is wrong, or was deleted", string(hcloud.ErrorCodeUnauthorized)),
	cloud.Means(power.ErrRefused, "the token may only read; make one that may write", string(hcloud.ErrorCodeForbidden), "token_readonly"),
	cloud.Means(power.ErrRefused, "another action is under way", string(hcloud.ErrorCodeLocked), string(hcloud.ErrorCodeConflict)),
	cloud.Means(power.ErrRefused, "there is no such server in the project of the token", string(hcloud.ErrorCodeNotFound)),
	cloud.Means(power.ErrRefused, "", string(hcloud.ErrorCodeMaintenance), string(hcloud.ErrorCodeProtected), string(hcloud.ErrorCodeResourceLocked), string(hcloud.ErrorCodeInvalidInput)),
	cloud.Means(power.ErrUnsupported, "this server cannot do that", string(hcloud.ErrorUnsupportedError)),
}
