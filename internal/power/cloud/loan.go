package cloud

import (
	"context"
	"fmt"
	"time"

	"github.com/gpupool/gpupool/internal/power"
)

// margin is how long before its end a loan is renewed, so that a request that
// takes a while does not arrive with a dead one.
const margin = time.Minute

// Loan is a credential that a service lends for a while, such as an access
// token. One call at a time renews it. Make one with [NewLoan].
type Loan[T comparable] struct {
	fetch func(context.Context) (T, time.Time, error)
	turn  chan struct{} // holds a token while nobody renews

	// The rest is for the holder of the token.
	value T
	until time.Time
}

// NewLoan returns a loan that fetch gets, with its end.
func NewLoan[T comparable](fetch func(context.Context) (T, time.Time, error)) *Loan[T] {
	l := &Loan[T]{fetch: fetch, turn: make(chan struct{}, 1)}
	l.turn <- struct{}{}
	return l
}

// Get returns the loan, renewed if it is over.
func (l *Loan[T]) Get(ctx context.Context) (value T, err error) {
	select {
	case <-l.turn:
	case <-ctx.Done():
		return value, fmt.Errorf("%w: nothing was sent: another call was fetching the credential: %w", power.ErrUnreachable, context.Cause(ctx))
	}
	defer func() { l.turn <- struct{}{} }()
	if time.Now().Before(l.until.Add(-margin)) {
		return l.value, nil
	}
	value, until, err := l.fetch(ctx)
	if err != nil {
		return value, err
	}
	l.value, l.until = value, until
	return value, nil
}

// Return gives a loan back before its end, because the cloud refused it. One
// that was renewed meanwhile is kept: several calls may be refused with one.
func (l *Loan[T]) Return(refused T) {
	<-l.turn
	if l.value == refused {
		l.until = time.Time{}
	}
	l.turn <- struct{}{}
}
