package cloud

import (
	"context"
	"time"
)

const pollEvery = 500 * time.Millisecond

// Follow asks about a change that was accepted until it is over, or for so
// long. Then it goes on, and what becomes of it shows in the instance: that is
// no error.
func Follow(ctx context.Context, limit time.Duration, ask func(context.Context) (over bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		timer := time.NewTimer(pollEvery)
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
