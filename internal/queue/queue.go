// Package queue reads how much work waits, and runs, in queues. A [Source]
// asks one queue of one system, such as a Redis list or a Kafka topic; each
// system has a folder of its own, a line in package sources, and passes the
// suite in package queuetest. A [Queue] is one or more sources under one name,
// as queues.hcl has them.
//
// What a source could not find out is unknown, and never zero: an autoscaler
// that takes a broken queue for an empty one stops the machines that would
// have worked it off.
package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Reading is what a queue held at one moment.
type Reading struct {
	// Waiting is the work that nobody has begun, in items (messages, jobs,
	// rows), or in items per second where a source was told to measure a
	// rate. It is finite and not negative.
	Waiting float64
	// Running is the work that somebody has begun and not finished, in the
	// same unit. Nil where the system does not tell, or was told not to count
	// it; that is not the same as none.
	Running *float64
	// Oldest is how long the oldest waiting item has waited. Nil where the
	// system does not tell, or nothing waits.
	Oldest *time.Duration
}

// Work is all that is waiting and known to be running. Work that left the
// queue needs its GPU until it is done.
func (r Reading) Work() float64 {
	if r.Running == nil {
		return r.Waiting
	}
	return r.Waiting + *r.Running
}

// Source is one queue of one system. It holds at most a few connections,
// which Read opens when there are none. Read is called by one goroutine at a
// time.
type Source interface {
	// Read asks the queue. The context always carries a deadline, and Read
	// returns soon after it. It reads a bounded amount, retries nothing, and
	// finds a server that was restarted again at the next call. The error is
	// of one of the classes below, and never holds a credential.
	Read(ctx context.Context) (Reading, error)
	// Close releases the connections. It is safe to call twice.
	Close() error
}

// The classes of error that callers tell apart with errors.Is.
var (
	// ErrUnreachable: no answer, or not in time.
	ErrUnreachable = errors.New("queue server unreachable")
	// ErrAuth: the server refused the credential, or it does not allow
	// reading this queue.
	ErrAuth = errors.New("queue server refused the credential")
	// ErrMissing: the server answered and has no such queue.
	ErrMissing = errors.New("there is no such queue")
	// ErrRefused: the server understood and said no, as to a query with a
	// mistake.
	ErrRefused = errors.New("queue server refused the request")
	// ErrInvalid: what was answered is no count.
	ErrInvalid = errors.New("queue server gave no valid answer")
)

// maxText bounds the text of an error, in bytes: servers choose it.
const maxText = 400

// Fail makes the error of a source: of a class, in one bounded line, with
// each of the secrets blotted out. The chain of what is given ends here,
// since printing it could spill what was blotted out.
func Fail(class error, what string, secrets ...string) error {
	return fmt.Errorf("%w: %s", class, Clean(what, secrets...))
}

// Clean makes one printable, bounded line of a text, without the secrets.
func Clean(text string, secrets ...string) string {
	for _, s := range secrets {
		if s != "" {
			text = strings.ReplaceAll(text, s, "(redacted)")
		}
	}
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "..."
	}
	return strings.TrimSpace(text)
}

// Blot takes secrets out of an error's text.
func Blot(err error, secrets ...string) error {
	for _, class := range []error{ErrUnreachable, ErrAuth, ErrMissing, ErrRefused, ErrInvalid} {
		if errors.Is(err, class) {
			return Fail(class, strings.TrimPrefix(err.Error(), class.Error()+": "), secrets...)
		}
	}
	return errors.New(Clean(err.Error(), secrets...))
}

// Seconds is an age in seconds, or nil where it is none that can be.
func Seconds(s float64) *time.Duration {
	if !(s >= 0 && s < 1e9) {
		return nil
	}
	d := time.Duration(s * float64(time.Second))
	return &d
}
