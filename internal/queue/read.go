package queue

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

const (
	maxAsked = 16              // sources of a set that are asked at once
	grace    = 2 * time.Second // after its deadline a source is given up
)

// member is a source of a queue with what the file says of it.
type member struct {
	label         string
	target        float64 // items for one unit of capacity
	timeout       time.Duration
	missingIsZero bool
	source        Source

	slots chan struct{} // of the set
	busy  chan struct{} // full while a read is under way
}

// read asks all sources at once and combines what they say.
func (q *Queue) read(ctx context.Context, now time.Time) (Depth, error) {
	answers := make([]Answer, len(q.sources))
	done := make(chan int)
	for i, m := range q.sources {
		go func() {
			answers[i] = m.answer(ctx)
			done <- i
		}()
	}
	for range q.sources {
		<-done
	}
	d := q.combine(answers)
	d.At = now
	var errs []error
	for _, a := range answers {
		if a.Err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a.Source, a.Err))
		}
	}
	if len(errs) == 0 {
		return d, nil
	}
	return d, fmt.Errorf("queue %q: %w", q.Name, &failures{errs, len(answers)})
}

// failures are the sources that failed, in one line.
type failures struct {
	errs []error
	of   int
}

func (f *failures) Error() string {
	text := fmt.Sprintf("%d of %d sources failed: ", len(f.errs), f.of)
	if f.of == 1 {
		text = ""
	}
	for i, err := range f.errs {
		if i > 0 {
			text += "; "
		}
		text += err.Error()
	}
	return text
}

func (f *failures) Unwrap() []error { return f.errs }

// combine is pure: what the sources that answered make together.
func (q *Queue) combine(answers []Answer) Depth {
	d := Depth{Sources: answers}
	join := func(a, b float64) float64 { return a + b }
	if q.Combine == Max {
		join = math.Max
	}
	most := 0.0
	for _, a := range answers {
		if a.Err != nil {
			continue
		}
		d.Waiting = join(d.Waiting, a.Waiting)
		d.Need = join(d.Need, a.Need)
		most = join(most, a.Work())
		if a.Running != nil {
			running := *a.Running
			if d.Running != nil {
				running = join(*d.Running, running)
			}
			d.Running = &running
		}
		if a.Oldest != nil && (d.Oldest == nil || *a.Oldest > *d.Oldest) {
			d.Oldest = a.Oldest
		}
	}
	d.Active = most > q.Activation
	return d
}

// answer asks one source, for its time and not longer.
func (m *member) answer(ctx context.Context) Answer {
	a := Answer{Source: m.label}
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	r, err := m.ask(ctx)
	if errors.Is(err, ErrMissing) && m.missingIsZero {
		r, err = Reading{}, nil
	}
	if err == nil {
		err = r.valid()
	}
	if err != nil {
		a.Err = err
		return a
	}
	a.Reading = r
	a.Need = r.Work() / m.target
	return a
}

// ask reads the source. A read that does not end is left behind, and the
// source is not asked again before it has ended: stuck reads never pile up.
func (m *member) ask(ctx context.Context) (Reading, error) {
	select {
	case m.busy <- struct{}{}:
	default:
		return Reading{}, Fail(ErrUnreachable, "the last read has not ended")
	}
	select {
	case m.slots <- struct{}{}:
	case <-ctx.Done():
		<-m.busy
		return Reading{}, Fail(ErrUnreachable, "its turn did not come in time: other sources take long")
	}
	type result struct {
		r   Reading
		err error
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-m.slots; <-m.busy }()
		r, err := guarded(ctx, m.source)
		done <- result{r, err}
	}()
	deadline, _ := ctx.Deadline()
	giveUp := time.NewTimer(time.Until(deadline) + grace)
	defer giveUp.Stop()
	select {
	case got := <-done:
		return got.r, got.err
	case <-giveUp.C:
		return Reading{}, Fail(ErrUnreachable, "the read does not end")
	}
}

// close waits for a read that is under way, and not longer than reads take.
func (m *member) close() error {
	giveUp := time.NewTimer(m.timeout + grace)
	defer giveUp.Stop()
	select {
	case m.busy <- struct{}{}:
		defer func() { <-m.busy }()
	case <-giveUp.C:
	}
	return m.source.Close()
}

// guarded turns a panic over some strange answer into an error: the process
// serves other queues.
func guarded(ctx context.Context, s Source) (r Reading, err error) {
	defer func() {
		if p := recover(); p != nil {
			r, err = Reading{}, Fail(ErrInvalid, fmt.Sprintf("reading it panicked: %T", p))
		}
	}()
	return s.Read(ctx)
}

// valid refuses what is no count.
func (r Reading) valid() error {
	counts := []float64{r.Waiting}
	if r.Running != nil {
		counts = append(counts, *r.Running)
	}
	for _, n := range counts {
		if math.IsNaN(n) || math.IsInf(n, 0) || n < 0 {
			return Fail(ErrInvalid, fmt.Sprintf("%v is no count", n))
		}
	}
	return nil
}
