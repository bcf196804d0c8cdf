package redfish

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
)

// replies answers the requests of one driver: a system that is off to the
// first, then what it was made with.
type replies struct {
	status int
	header string // Location and Retry-After
	body   []byte
	posts  int
	after  int // how many requests are answered well
	seen   int
}

func (r *replies) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method == http.MethodPost {
		r.posts++
	}
	good := map[string]string{
		"/redfish/v1/":          `{"Vendor":"HPE","Links":{"Sessions":{"@odata.id":"/s"}}}`,
		"/redfish/v1/Systems":   `{"Members":[{"@odata.id":"/redfish/v1/Systems/1"}]}`,
		"/redfish/v1/Systems/1": `{"PowerState":"Off","Actions":{"#ComputerSystem.Reset":{"target":"/reset","@Redfish.ActionInfo":"/info"}}}`,
	}
	status, body := r.status, r.body
	if r.seen < r.after {
		if text, ok := good[req.URL.Path]; ok {
			status, body = http.StatusOK, []byte(text)
		}
	}
	r.seen++
	return &http.Response{
		StatusCode: status, Body: io.NopCloser(bytes.NewReader(body)), Request: req,
		Header: http.Header{"Location": {r.header}, "Retry-After": {r.header}, "X-Auth-Token": {r.header}},
	}, nil
}

func (r *replies) CloseIdleConnections() {}

// interrupted ends a call after the power was read.
type interrupted struct {
	*replies
	end context.CancelFunc
}

func (i interrupted) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Context().Err() != nil {
		return nil, req.Context().Err()
	}
	if strings.HasSuffix(req.URL.Path, "/info") {
		defer i.end()
	}
	return i.replies.RoundTrip(req)
}

// A change that the call's end kept from being sent is not an ambiguous one.
func TestEndBeforeTheChange(t *testing.T) {
	for range 30 { // where the end is noticed first is up to chance
		ctx, cancel := context.WithCancel(t.Context())
		base := interrupted{&replies{status: http.StatusOK, body: []byte("{}"), after: 3}, cancel}
		d := newDriver(settings{address: "bmc:443", username: "gpupool", password: "gpupool-Pass1"}, base)
		if err := d.On(ctx); !errors.Is(err, power.ErrUnreachable) || base.posts != 0 {
			t.Fatalf("On: %v after %d changes sent, want unreachable after none", err, base.posts)
		}
	}
}

// FuzzReplies gives a driver any answer at any point of its conversation. It
// does not panic, knows the power only without an error, sends at most one
// change, and what it says of the answer is safe for a log.
func FuzzReplies(f *testing.F) {
	for _, body := range []string{
		"", "null", "[]", "{}", `{"PowerState":"On"}`, `{"PowerState":7}`, `{"Members":[{"@odata.id":"/redfish/v1/Systems/1"},{}]}`,
		`{"error":{"code":"x","message":"gpupool-Pass1\u001b[2J","@Message.ExtendedInfo":[{"MessageId":7}]}}`,
		`{"error":{"@Message.ExtendedInfo":[{"MessageId":"SessionLimitExceeded","Message":"a\nb"}]}}`,
		`{"TaskState":"Exception","Messages":[{"Message":"gpupool-Pass1"}]}`, `{"Parameters":[{"Name":"ResetType","AllowableValues":["On"]}]}`,
		strings.Repeat("[", 10000), "\xff\xfe", `{"Members":[{"@odata.id":"//evil/x"}]}`,
	} {
		for _, status := range []int{200, 202, 302, 401, 403, 429, 500} {
			f.Add(status, "/monitor", []byte(body), 3, false)
		}
		f.Add(200, "99999999999999999999", []byte(body), 0, true)
	}
	f.Fuzz(func(t *testing.T, status int, header string, body []byte, after int, session bool) {
		if status < 100 || status > 999 {
			return // net/http does not let it through
		}
		base := &replies{status: status, header: header, body: body, after: after}
		d := newDriver(settings{address: "bmc:443", username: "gpupool", password: "gpupool-Pass1", session: session}, base)
		d.transport = base
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		check := func(err error) {
			if err == nil {
				return
			}
			text := err.Error()
			if strings.Contains(text, "gpupool-Pass1") || strings.ContainsAny(text, "\n\r\x1b\x00") || len(text) > 1000 {
				t.Errorf("unsafe for a log: %q", text)
			}
			classes := 0
			for _, class := range []error{power.ErrUnreachable, power.ErrAuth, power.ErrAmbiguous, power.ErrRefused, power.ErrUnsupported} {
				if errors.Is(err, class) {
					classes++
				}
			}
			if classes != 1 {
				t.Errorf("of %d classes: %q", classes, text)
			}
		}
		p, err := d.State(ctx)
		if check(err); (err == nil) == (p == pool.PowerUnknown) {
			t.Errorf("power %s with error %v", p, err)
		}
		base.seen, base.posts, d.restUntil = 0, 0, time.Time{}
		check(d.On(ctx))
		if most := 1; !session && base.posts > most {
			t.Errorf("%d changes were sent", base.posts)
		}
	})
}
