package cloud

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// Throttled is a request that the cloud put off because it was asked too
// often. It was not carried out.
type Throttled struct {
	After time.Duration // the least wait that the cloud asks for, 0 if it does not say
	Err   error         // of the class that the request has if it is given up
}

func (t *Throttled) Error() string { return t.Err.Error() }

// Unwrap is the error.
func (t *Throttled) Unwrap() error { return t.Err }

// The waits between requests that are put off: a random part of one that
// doubles, so that those who were put off together do not come back together
// (M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015).
const (
	firstWait = 200 * time.Millisecond
	mostWait  = 5 * time.Second
)

// insist sends a request until it is not put off, for as long as the context
// lives.
func insist(ctx context.Context, send func() error) error {
	for wait := firstWait; ; wait = min(2*wait, mostWait) {
		err := send()
		var put *Throttled
		if !errors.As(err, &put) {
			return err
		}
		pause := max(put.After, wait/2+rand.N(wait/2))
		if end, ok := ctx.Deadline(); ok && time.Until(end) < pause {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}
