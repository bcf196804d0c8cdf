package nomad_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/internal/nomad/nomadtest"
	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/nomad"
	"github.com/gpupool/gpupool/internal/queue/queuetest"
)

// job is a parameterized job whose work sleeps, where it fits.
func parse(src []byte) (*queue.Set, error) {
	return queue.Parse("queues.hcl", src, []queue.Kind{nomad.Kind()})
}

func job(id string, fits bool) *api.Job {
	task := api.NewTask("sleep", "raw_exec").SetConfig("command", "/bin/sleep").SetConfig("args", []string{"3600"}).
		Require(&api.Resources{CPU: ptr(20), MemoryMB: ptr(10)})
	j := api.NewBatchJob(id, id, "global", 50)
	j.NodePool = ptr("gpu")
	j.ParameterizedJob = &api.ParameterizedJobConfig{Payload: "optional"}
	j.AddTaskGroup(api.NewTaskGroup("g", 1).AddTask(task))
	if !fits {
		j.Constrain(api.NewConstraint("${attr.kernel.name}", "=", "plan9"))
	}
	return j
}

func ptr[T any](v T) *T { return &v }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestContract(t *testing.T) {
	s := nomadtest.Start(t, "acl { enabled = true }")
	cl := s.Client("worker", "")
	queuetest.Run(t, queuetest.Rig{
		Kind: nomad.Kind(), Secret: s.Token, WrongSecret: "11111111-2222-3333-4444-555555555555", Frames: []string{"internal/queue/nomad."},
		Server: queuetest.Server{
			Addr: strings.TrimPrefix(s.Addr, "http://"),
			Settings: func(addr, queue, password string) map[string]string {
				return map[string]string{"address": "http://" + addr, "token": password, "job": queue}
			},
			SettingsTLS: func(m map[string]string) map[string]string {
				m = maps.Clone(m)
				m["address"] = strings.Replace(m["address"], "http://", "https://", 1)
				return m
			},
			Restart: func() { s.Stop(); s.Run() },
			Put: func(t *testing.T, queue string, items, begun int) {
				nomad := s.API()
				for i := range max(items, 1) {
					if i == 0 || i == begun {
						_, _, err := nomad.Jobs().Register(job(queue, i < begun), nil)
						must(t, err)
					}
					if i < items {
						_, _, err := nomad.Jobs().Dispatch(queue, nil, nil, "", nil)
						must(t, err)
					}
				}
			},
		},
	})
	_ = cl
}

func TestWhatIsNoQueue(t *testing.T) {
	s := nomadtest.Start(t, "")
	read := func(more string) string {
		set, err := parse(fmt.Appendf(nil, "queue \"q\" {\n source \"nomad-dispatch\" {\n address = %q\n %s\n }\n}", s.Addr, more))
		must(t, err)
		defer set.Close()
		return queuetest.Show(set.Queues[0].Read(t.Context(), queuetest.Now))
	}
	plain := job("plain", false)
	plain.ParameterizedJob = nil
	_, _, err := s.API().Jobs().Register(plain, nil)
	must(t, err)
	_, _, err = s.API().Jobs().Register(job("train", false), nil)
	must(t, err)
	var ids []string
	for range 3 {
		resp, _, err := s.API().Jobs().Dispatch("train", nil, nil, "", nil)
		must(t, err)
		ids = append(ids, resp.DispatchedJobID)
	}
	for _, c := range []struct{ more, want string }{
		{"job = \"train\"\n target = 0.125", "3 waiting and 0 running, needs 24, active true"},
		{`job = "plain"`, "is not parameterized"},
		{`job = "none"`, queue.ErrMissing.Error()},
		{"job = \"train\"\n namespace = \"other\"", queue.ErrMissing.Error()},
		{"job = \"train\"\n region = \"mars\"", "No path to region"},
	} {
		if got := read(c.more); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s, want %q", c.more, got, c.want)
		}
	}
	// What was stopped waits no more.
	_, _, err = s.API().Jobs().Deregister(ids[0], false, nil)
	must(t, err)
	end := time.Now().Add(time.Minute)
	for got := ""; !strings.Contains(got, "2 waiting"); got = read(`job = "train"`) {
		if time.Now().After(end) {
			t.Fatalf("after one was stopped: %s", got)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
