package cloud

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/https"
)

// Rule is what some of a cloud's error codes mean.
type Rule struct {
	codes []string // in any case
	class error    // of package power, or errThrottled
	means string
}

// Rules are a cloud's error codes. The first that fits counts; codes that are
// in none are judged by the HTTP status.
type Rules []Rule

// errThrottled as the class of a rule is a request that was put off.
var errThrottled = errors.New("asked too often")

// Means is the rule on some codes: what they mean for the caller, and what to do
// about it, which may be empty.
func Means(class error, means string, codes ...string) Rule { return Rule{codes, class, means} }

// TooOften is the rule on requests that were put off.
func TooOften(codes ...string) Rule {
	return Rule{codes, errThrottled, "it is asked too often"}
}

// Answer is what came of a request that failed.
type Answer struct {
	Change  bool            // it was a change, not a read
	Seen    *https.Exchange // what went over the wire
	Err     error           // as the layers between saw it, may be nil
	Code    string          // what the cloud calls it, empty if it has no name
	Text    string          // what the cloud says, may be empty
	Else    error           // the class if the code is in no rule; nil judges by the HTTP status
	Secrets []power.Secret  // what must not be printed
}

const (
	mostRest = time.Minute // that a Retry-After counts for
	owner    = "the cloud's operator"
)

// Failure is the error of a request, of one of the classes of package power.
func (rs Rules) Failure(a Answer) error {
	written, status, header := a.Seen.Seen()
	means, class := rs.class(a, written, status)
	throttled := errors.Is(class, errThrottled)
	if throttled {
		class = power.ErrUnreachable
	}
	if a.Change && status != 0 && errors.Is(class, power.ErrUnreachable) {
		class = power.ErrRefused // it answered: it said no
	}
	text := https.Brief(a.text(means, status), a.Secrets...)
	err := fmt.Errorf("%w: %s", class, text)
	if end := https.End(a.Err); end != nil {
		err = fmt.Errorf("%w: %s: %w", class, text, end)
	}
	if throttled {
		return &Throttled{After: https.RetryAfter(header, time.Now(), 0, mostRest), Err: err}
	}
	return err
}

// text is what there is to say about an answer: what it means, what the cloud
// said, and what went wrong below that.
func (a Answer) text(means string, status int) string {
	parts := []string{means, strings.TrimSpace(a.Code + " " + a.Text)}
	switch {
	case status >= 300:
		parts = append(parts, "HTTP "+strconv.Itoa(status))
	case a.Err == nil:
	case https.Mend(a.Err, owner) != "":
		parts = append(parts, https.Mend(a.Err, owner))
	case https.End(a.Err) != nil:
		parts = append(parts, "no answer")
	default:
		parts = append(parts, a.Err.Error())
	}
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), ": ")
}

// class is what an answer means for the caller.
func (rs Rules) class(a Answer, written bool, status int) (means string, class error) {
	for _, r := range rs {
		if a.Code != "" && slices.ContainsFunc(r.codes, func(c string) bool { return strings.EqualFold(c, a.Code) }) {
			return r.means, r.class
		}
	}
	switch {
	case a.Else != nil:
		return "", a.Else
	case status == 0 && a.Change && written:
		return "the command was sent once and not answered", power.ErrAmbiguous
	case status == 0:
		return "", power.ErrUnreachable
	case status < 300 && !a.Change:
		return "its answer cannot be read", power.ErrUnreachable
	case status < 300:
		return "its answer to the command cannot be read", power.ErrAmbiguous
	case status < 400:
		return "it answers with a redirect, which is not followed; correct the endpoint", power.ErrRefused
	case status == http.StatusUnauthorized:
		return "the credential is wrong, or has expired", power.ErrAuth
	case status == http.StatusForbidden:
		return "the credential may not do this", power.ErrRefused
	case status == http.StatusTooManyRequests:
		return "it is asked too often", errThrottled
	case status >= 500 && a.Change:
		return "it failed on the command, or behind it", power.ErrAmbiguous
	case status >= 500:
		return "", power.ErrUnreachable
	}
	return "", power.ErrRefused
}
