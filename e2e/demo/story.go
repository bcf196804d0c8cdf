package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/gpupool/gpupool/e2e/stage"
)

// times are the moments of the story that the README tells of.
type times struct {
	submitted, poweredOn, joined, running, ended, off time.Time
}

func (t times) print(w io.Writer) {
	fmt.Fprintln(w, "\nmeasured in this run:")
	for _, row := range []struct {
		what     string
		from, to time.Time
	}{
		{"job queued → chassis on", t.submitted, t.poweredOn},
		{"chassis on → Nomad node ready", t.poweredOn, t.joined},
		{"job queued → job running", t.submitted, t.running},
		{"job ended → chassis off", t.ended, t.off},
	} {
		fmt.Fprintf(w, "  %-32s %6.1f s\n", row.what, row.to.Sub(row.from).Seconds())
	}
}

// play is the whole story. It fails unless all of it happened.
func play(ctx context.Context, st *stage.Stage, s *screen, quick bool) (t times, err error) {
	hold := 5 * time.Second
	if !quick {
		hold = 20 * time.Second
	}
	one := st.Hosts()[0]

	s.chapter("A job asks for two GPUs. Every host is off, so it is queued.")
	t.submitted = time.Now()
	if err := st.Train(ctx, 1, 2, hold); err != nil {
		return t, err
	}
	if err := one.UntilPower(ctx, true); err != nil {
		return t, err
	}
	t.poweredOn = time.Now()
	s.chapter("gpupool powered gpu-1 on through its BMC. It boots.")
	if err := one.UntilNode(ctx, "ready"); err != nil {
		return t, err
	}
	t.joined = time.Now()
	if _, err := st.UntilAlloc(ctx, "train", "running"); err != nil {
		return t, err
	}
	t.running = time.Now()
	s.chapter("The host joined Nomad and the job runs.")

	s.chapter("Three instances of a model server want a GPU each: more hosts.")
	if err := st.Serve(ctx, 3); err != nil {
		return t, err
	}
	if err := st.UntilRunning(ctx, "serve", 3); err != nil {
		return t, err
	}
	s.chapter("All of it runs.")

	s.chapter("The jobs end, and what is on without work goes off.")
	if _, err := st.UntilAlloc(ctx, "train", "complete"); err != nil {
		return t, err
	}
	if err := st.Scale(ctx, 0); err != nil {
		return t, err
	}
	if err := st.UntilRunning(ctx, "serve", 0); err != nil {
		return t, err
	}
	t.ended = time.Now()
	if err := st.UntilAllOff(ctx); err != nil {
		return t, err
	}
	t.off = time.Now()
	if err := st.NothingLost(ctx, "train", "serve"); err != nil {
		return t, err
	}
	s.chapter("Back at zero. No job was killed.")
	return t, nil
}
