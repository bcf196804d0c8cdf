package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/sources"
	"github.com/gpupool/gpupool/internal/top"
)

// topFlags are those of `gpupool top`.
type topFlags struct {
	consulFlags
	agentFlags
	queues string
	every  time.Duration
	once   bool
}

func newTop() *cobra.Command {
	var f topFlags
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show live what GPUs, model servers and queues are doing",
		Long: `Show live what the GPUs of all hosts, the model servers on them and the queues are
doing, beside how the pools stand. It finds the agents through Consul and asks
them; nothing is changed. Where standard output is no terminal it prints once.`,
		Example: `  gpupool top
  gpupool top --queues queues.hcl --every 5s
  gpupool top --once`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return f.run(ctx, cmd.OutOrStdout())
		},
	}
	f.consulFlags.register(cmd)
	f.agentFlags.register(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.queues, "queues", "", "file of the queues to show, queues.hcl")
	fl.DurationVar(&f.every, "every", 2*time.Second, "time between looks")
	fl.BoolVar(&f.once, "once", false, "print once and end")
	return cmd
}

func (f *topFlags) run(ctx context.Context, out io.Writer) error {
	if f.every < 100*time.Millisecond {
		return fmt.Errorf("--every %s: at least 100ms", f.every)
	}
	s, err := f.sight()
	if err != nil {
		return err
	}
	defer s.queues.Close() //nolint:errcheck // nothing is lost with the connections
	screen, live := terminal(out)
	if f.once || !live {
		v, err := s.look(ctx)
		if err != nil {
			return err
		}
		return top.Draw(out, v, 0)
	}
	return screen.loop(ctx, f.every, s.look)
}

// sight is whom to ask.
type sight struct {
	consul *consul.Client
	agents fleet.Config
	queues *queue.Set
}

func (f *topFlags) sight() (*sight, error) {
	s := &sight{queues: new(queue.Set)}
	var errs []error
	var err error
	if s.consul, err = consul.New(f.cfg); err != nil {
		errs = append(errs, err)
	}
	if s.agents, err = f.gather(); err != nil {
		errs = append(errs, err)
	}
	if f.queues != "" {
		if set, err := sources.Load(f.queues); err != nil {
			errs = append(errs, err)
		} else {
			s.queues = set
		}
	}
	return s, errors.Join(errs...)
}

// lookTimeout bounds one look at everything.
const lookTimeout = 5 * time.Second

// look asks everybody side by side. Only Consul is needed: who else does not
// answer is shown as that.
func (s *sight) look(ctx context.Context) (top.View, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	v := top.View{At: time.Now(), Agents: map[string]top.Agent{}, Queues: map[string]top.Queue{}}
	entries, strays, err := s.consul.FindAgents(ctx)
	if err != nil {
		return v, err
	}
	for _, stray := range strays {
		v.Notes = append(v.Notes, "left out: "+stray)
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, q := range s.queues.Queues {
		all.Go(func() {
			depth, err := q.Read(ctx, time.Now())
			mu.Lock()
			defer mu.Unlock()
			v.Queues[q.Name] = top.Queue{Depth: depth, Err: err}
		})
	}
	ask := map[string]string{}
	for node, e := range entries {
		if e.Passing {
			ask[node] = e.Addr
		} else {
			v.Agents[node] = top.Agent{Err: errors.New("Consul calls its agent failing")}
		}
	}
	for node, r := range fleet.Gather(ctx, s.agents, ask) {
		v.Agents[node] = top.Agent{Snapshot: r.Snapshot, Err: r.Err}
	}
	names, err := s.consul.Pools(ctx)
	if err != nil {
		v.Notes = append(v.Notes, err.Error())
	}
	for _, name := range names {
		p, err := readPool(ctx, s.consul, name)
		if err != nil {
			v.Notes = append(v.Notes, err.Error())
		}
		v.Pools = append(v.Pools, p)
	}
	all.Wait()
	return v, nil
}

// screen is a terminal that is drawn over again and again.
type screen struct{ file *os.File }

func terminal(out io.Writer) (screen, bool) {
	f, ok := out.(*os.File)
	return screen{f}, ok && term.IsTerminal(int(f.Fd()))
}

// The few words of a terminal that are needed: ECMA-48.
const (
	home      = "\x1b[H"
	clearLine = "\x1b[K"
	clearRest = "\x1b[J"
	enter     = "\x1b[?1049h\x1b[?25l" // the other screen, without a cursor
	leave     = "\x1b[?25h\x1b[?1049l"
)

func (s screen) loop(ctx context.Context, every time.Duration, look func(context.Context) (top.View, error)) error {
	_, _ = io.WriteString(s.file, enter)
	defer func() { _, _ = io.WriteString(s.file, leave) }()
	for {
		v, err := look(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			v.Notes = append(v.Notes, err.Error())
		}
		if err := s.draw(v); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every):
		}
	}
}

// draw fills the terminal, as much of it as fits.
func (s screen) draw(v top.View) error {
	width, height, err := term.GetSize(int(s.file.Fd()))
	if err != nil {
		width, height = 80, 24
	}
	var text bytes.Buffer
	if err := top.Draw(&text, v, width); err != nil {
		return err
	}
	lines := bytes.Split(bytes.TrimRight(text.Bytes(), "\n"), []byte("\n"))
	if len(lines) > height {
		lines = append(lines[:max(height-1, 0)], []byte(fmt.Sprintf("… %d lines more: a larger window shows them", len(lines)-height+1)))
	}
	_, err = s.file.WriteString(home + string(bytes.Join(lines, []byte(clearLine+"\r\n"))) + clearLine + clearRest)
	return err
}
