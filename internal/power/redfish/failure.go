package redfish

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stmcginnis/gofish/schemas"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/https"
)

// answer is what came of a request that failed.
type answer struct {
	change  bool   // it was a change, not a read
	written bool   // it may have reached the service
	status  int    // of HTTP, 0 if there was no answer
	text    string // what the service said, as it said it
}

// Substrings of message identifiers and texts, in lower case.
var (
	saysLicence     = []string{"licens"}                                                                                                                                 // Supermicro SMC.1.0.OemLicenseNotPassed (ironic-image#688), iDRAC "No sufficient LICENSE"
	saysSessions    = []string{"sessionlimitexceeded", "rac0218", "maximum number of user sessions"}                                                                     // Base; iDRAC (gofish#75)
	saysUnsupported = []string{"actionnotsupported", "actionparameternotsupported", "actionparameterunknown", "actionparametervaluenotinlist", "propertyvaluenotinlist"} // Base registry
)

// quirks are answers that mean something else than their HTTP status says. The
// first that fits counts.
var quirks = []struct {
	status []int // any if empty
	says   []string
	change bool // only of a change
	class  error
	means  string
}{
	{[]int{400, 403, 405, 501}, saysLicence, false, power.ErrRefused, "the BMC lacks a licence for this; activate the one that it names, or use the ipmi driver"},
	{nil, saysSessions, false, power.ErrUnreachable, "all of its sessions are in use; close other tools, or wait for them to time out"},
	{[]int{400, 404, 409, 422}, saysUnsupported, true, power.ErrUnsupported, "it does not have this reset"},
}

// class is what an answer means for the caller, with what to do about it where
// that is known.
func (a answer) class() (means string, class error) {
	said := strings.ToLower(a.text)
	for _, q := range quirks {
		if (len(q.status) == 0 || slices.Contains(q.status, a.status)) && (a.change || !q.change) && a.status >= 400 &&
			slices.ContainsFunc(q.says, func(s string) bool { return strings.Contains(said, s) }) {
			if a.change && errors.Is(q.class, power.ErrUnreachable) {
				return q.means, power.ErrRefused // it answered the change: it said no
			}
			return q.means, q.class
		}
	}
	switch {
	case a.status == 0 && a.change && a.written:
		return "the command was sent once and not answered", power.ErrAmbiguous
	case a.status == 0:
		return "", power.ErrUnreachable
	case a.status < 300 && !a.change:
		return "its answer cannot be read", power.ErrUnreachable
	case a.status < 300:
		return "its answer to the command cannot be read", power.ErrAmbiguous
	case a.status < 400:
		return "it answers with a redirect; correct address", power.ErrRefused
	case a.status == http.StatusUnauthorized:
		return "wrong password, no such user, or an account that is locked", power.ErrAuth
	case a.status == http.StatusForbidden && a.change:
		return "the account may not do this; give it the role Operator (privilege ConfigureComponents)", power.ErrRefused
	case a.status == http.StatusForbidden:
		return "the account is locked, expired, or may not log in over Redfish", power.ErrAuth
	case (a.status == http.StatusMethodNotAllowed || a.status == http.StatusNotImplemented) && a.change:
		return "it has no reset action", power.ErrUnsupported
	case a.status == http.StatusNotFound && !a.change:
		return "it has no such resource; is Redfish enabled in the BMC, and system right?", power.ErrRefused
	case a.status == http.StatusConflict:
		return "the resource is in use, or in a state that forbids this", power.ErrRefused
	case (a.status == http.StatusTooManyRequests || a.status == http.StatusServiceUnavailable) && a.change:
		return "it is busy", power.ErrRefused
	case a.status == http.StatusTooManyRequests, a.status >= 500 && !a.change:
		return "", power.ErrUnreachable
	case a.status >= 500:
		return "it failed on the command, or behind it", power.ErrAmbiguous
	}
	return "", power.ErrRefused
}

// failure classifies what gofish returned for the last request.
func (d *Driver) failure(err error, change bool) error {
	written, status, header := d.guard.seen()
	if errors.Is(err, errElsewhere) {
		return fmt.Errorf("%w: %w", power.ErrRefused, errElsewhere)
	}
	a := answer{change: change, written: written, status: status, text: err.Error()}
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		now := time.Now()
		d.restUntil = now.Add(https.RetryAfter(header, now, defaultRest, maxRest))
	}
	means, class := a.class()
	var parts []string
	if means != "" {
		parts = append(parts, means)
	}
	switch {
	case status >= 300:
		parts = append(parts, d.quote(err), "HTTP "+strconv.Itoa(status))
	case https.Mend(err, "the BMC itself") != "":
		parts = append(parts, https.Mend(err, "the BMC itself"))
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		parts = append(parts, "no answer")
	default:
		parts = append(parts, d.quote(err))
	}
	parts = slices.DeleteFunc(parts, func(s string) bool { return s == "" })
	text := d.config.brief(strings.Join(parts, ": "))
	// The text is the service's own in part, so that it is no format.
	if cause := https.End(err); cause != nil {
		return fmt.Errorf("%w: %s: %w", class, text, cause)
	}
	return fmt.Errorf("%w: %s", class, text)
}

// quote is what a service said, in words if it says any. Only the beginning of
// a long answer is kept.
func (d *Driver) quote(err error) string {
	var said *schemas.Error
	if !errors.As(err, &said) {
		return err.Error()
	}
	var texts []string
	for _, m := range said.ExtendedInfos {
		texts = append(texts, strings.TrimSpace(m.MessageID+" "+m.Message))
	}
	if len(texts) == 0 {
		texts = []string{strings.TrimSpace(said.Code + " " + said.Message)}
	}
	return strings.Join(texts, "; ")
}

const (
	defaultRest = 5 * time.Second // where a busy service does not say how long
	maxRest     = 5 * time.Minute // and where it says more than anyone waits
)

// brief is a text as a line of a log, without the password in any form that it
// is sent in.
func (s settings) brief(text string) string {
	basic := base64.StdEncoding.EncodeToString([]byte(s.username + ":" + s.password.Reveal()))
	return https.Brief(text, power.Secret(basic), s.password)
}
