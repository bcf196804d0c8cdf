package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/gpupool/gpupool/e2e/stage"
	"github.com/gpupool/gpupool/internal/board"
)

// screen tells the story. On a terminal the table of the pool is drawn over
// itself beneath the story; in a pipe what changed is printed, line by line.
type screen struct {
	w     io.Writer
	live  bool
	began time.Time

	mu     sync.Mutex
	drawn  int // lines of the table that stand below the story
	told   map[string]string
	cancel context.CancelFunc
	done   chan struct{}
}

func newScreen(w io.Writer, live bool) *screen {
	return &screen{w: w, live: live, began: time.Now(), told: map[string]string{}}
}

// say prints one line with the time since the start.
func (s *screen) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	fmt.Fprintf(s.w, "%7.1fs  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

func (s *screen) chapter(text string) {
	if s.live {
		text = "\x1b[1m" + text + "\x1b[0m"
	}
	s.say("%s", text)
}

// start shows the pool until stop.
func (s *screen) start(ctx context.Context, st *stage.Stage) {
	ctx, s.cancel = context.WithCancel(ctx)
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		for ctx.Err() == nil {
			s.show(st.Board(ctx))
			select {
			case <-ctx.Done():
			case <-time.After(500 * time.Millisecond):
			}
		}
	}()
}

func (s *screen) stop() {
	if s.cancel != nil {
		s.cancel()
		<-s.done
		s.cancel = nil
	}
}

func (s *screen) show(p board.Pool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.Status == nil {
		return
	}
	if !s.live {
		s.lines(p)
		return
	}
	var b strings.Builder
	_ = board.Print(&b, p, time.Now())
	s.clear()
	fmt.Fprint(s.w, "\n", b.String())
	s.drawn = strings.Count(b.String(), "\n") + 1
}

// clear takes the table away, so that the story can go on above it.
func (s *screen) clear() {
	if s.drawn > 0 {
		fmt.Fprintf(s.w, "\x1b[%dA\x1b[J", s.drawn)
		s.drawn = 0
	}
}

// lines prints what changed since the last time.
func (s *screen) lines(p board.Pool) {
	tell := func(key, text string) {
		if s.told[key] != text {
			s.told[key] = text
			fmt.Fprintf(s.w, "%7.1fs  %s\n", time.Since(s.began).Seconds(), text)
		}
	}
	if p.Demand != nil {
		tell("demand", fmt.Sprintf("  demand %d GPUs: %d held, %d queued", p.Demand.Allocated+p.Demand.Queued, p.Demand.Allocated, p.Demand.Queued))
	}
	if p.Want != nil {
		tell("want", fmt.Sprintf("  want %d: %s", p.Want.Count, p.Want.Reason))
	}
	for _, h := range p.Status.Hosts {
		text := fmt.Sprintf("  %s: power %s, %s, %d of %d GPUs busy", h.ID, h.Power, h.Phase, h.GPUsBusy, h.GPUs)
		if h.Why != "" {
			text += " (" + h.Why + ")"
		}
		tell(h.ID, text)
	}
}
