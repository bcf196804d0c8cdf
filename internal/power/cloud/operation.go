package cloud

import (
	"context"
	"time"
)

// The waits between questions about a change: most are over at once.
const (
	firstPoll = 100 * time.Millisecond
	mostPoll  = time.Second
)

// Follow asks about a change that was accepted until it is over, or for so
// long. Then it goes on, and what becomes of it shows in the instance: that is
// no error.
func Follow(ctx context.Context, limit time.Duration, ask func(context.Context) (over bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for wait := firstPoll; ; wait = min(2*wait, mostPoll) {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		if over, err := ask(ctx); over {
			return err
		}
	}
}
