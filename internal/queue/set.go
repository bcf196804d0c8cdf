package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Set is the content of queues.hcl, found right.
type Set struct {
	Queues []*Queue // sorted by name

	// Warnings are about what works but should not stay, such as a
	// credential file that others can read.
	Warnings []string
}

// Queue returns the queue of that name.
func (s *Set) Queue(name string) (*Queue, bool) {
	for _, q := range s.Queues {
		if q.Name == name {
			return q, true
		}
	}
	return nil, false
}

// Queue is work under one name, from one or more sources.
type Queue struct {
	Name       string
	Combine    string  // Sum or Max
	Activation float64 // items; the queue is active above it, not at it

	sources []*member
}

// The values of Queue.Combine.
const (
	Sum = "sum" // the sources hold different work
	Max = "max" // the sources see the same work in different ways
)

// Depth is what all sources of a queue said at one moment, combined.
type Depth struct {
	// Reading is combined as the queue says. Running is nil if it is nil in
	// each source that answered. Oldest is the longest of all.
	Reading
	// Need is the capacity that the work asks for, in units of what the
	// policy counts (GPUs, slots, instances): the combined work of each
	// source divided by its target.
	Need float64
	// Active says that there is more work than Activation.
	Active bool
	// At is when the sources were asked.
	At time.Time
	// Sources has what each source said, in the order of the file.
	Sources []Answer
}

// Answer is what one source said.
type Answer struct {
	Source string // `source "redis"`, numbered where there are several of a kind
	Reading
	Need float64 // units of capacity
	Err  error   // nil if the source answered
}

// Read asks all sources of the queue, a bounded number at a time. If one
// fails, the error names it, and what comes beside it holds what the others
// said: at least that much work is there, and how much more is unknown. So it
// may be reason to start capacity, and never to stop any.
func (q *Queue) Read(ctx context.Context, now time.Time) (Depth, error) {
	return q.read(ctx, now)
}

// Close releases the connections of all sources, each when its read that is
// under way has ended, or soon. Later reads fail.
func (s *Set) Close() error {
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for _, q := range s.Queues {
		for _, m := range q.sources {
			wg.Go(func() {
				if err := m.close(); err != nil {
					mu.Lock()
					defer mu.Unlock()
					errs = append(errs, fmt.Errorf("close queue %q: %s: %w", q.Name, m.label, err))
				}
			})
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Sources are the labels of the queue's sources, in the order of the file.
func (q *Queue) Sources() []string {
	var out []string
	for _, m := range q.sources {
		out = append(out, m.label)
	}
	return out
}
