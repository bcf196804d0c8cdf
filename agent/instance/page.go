package instance

import (
	"fmt"
	"strings"

	"github.com/gpupool/gpupool/internal/engine"
	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/setting"
)

// states says of each state what proves it, what Consul has, and how it ends,
// for the reference page.
var states = []struct {
	State               fleet.InstanceState
	Proof, Consul, Ends string
}{
	{fleet.Cold, "Nomad says that its task is pending, or has ended and is to be started again.",
		"nothing", "The task runs: warming."},
	{fleet.Warming, "The task runs. The server does not listen, is not ready, names no model, or has not answered the warm-up request.",
		"critical", "Ready in two looks in a row, and the warm-up request answered: warm. Asleep, if the server says so. Unhealthy after `warming_limit`."},
	{fleet.Asleep, "The server says that it sleeps, or the agent put it to sleep.",
		"critical", "Awake and ready in two looks in a row: warm."},
	{fleet.Warm, "Ready: its health path answers 200, a model is loaded, it is awake, and none of its GPUs is lost, unresponsive or failed. It has had no work for 5 s, or does not tell.",
		"**passing**", "A request: serving. Or as serving ends."},
	{fleet.Serving, "Ready, and requests run or wait, or did within 5 s.",
		"**passing**", "No work for 5 s: warm. Full: saturated. Three bad looks in a row and none good for 5 s, or for 20 s if it takes connections and does not answer, or a GPU fails or is lost: unhealthy. To end: draining. It sleeps: asleep. Its task ends: cold."},
	{fleet.Saturated, "Ready, and for 5 s requests have waited, all slots have been in use, or the KV cache has been fuller than 90 %.",
		"**passing**", "Room for 5 s: serving. Or as serving ends."},
	{fleet.Draining, "Nomad stops the allocation, the host is about to go, or an operator said so.",
		"critical, and in maintenance with the reason", "Its allocation ends: gone. Or it is taken back."},
	{fleet.Unhealthy, "It was ready, and then had three bad looks in a row with none good for 5 s, or no answer for 20 s; or a GPU of it is lost, unresponsive or failed; or it was not ready within `warming_limit`.",
		"critical", "The cause is gone, it is ready in two looks in a row, and 10 s have passed, which double each time up to 5 min: warm. Its task is started anew: warming."},
}

// page is the generated part of the reference page.
func page() string {
	var b strings.Builder
	b.WriteString("## States\n\n| state | proof | in Consul | how it ends |\n|---|---|---|---|\n")
	for _, s := range states {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", s.State, s.Proof, s.Consul, s.Ends)
	}
	b.WriteString("\n## Settings of a job\n\nIn the `meta` of the job, the group or the task, each with `gpupool.` before it.\n\n")
	r := setting.NewReader(setting.Place{}, nil)
	declare(r)
	b.WriteString(setting.Markdown(r.Fields()))
	b.WriteString("\nThe `metric_` settings take the place of the profile's names: `queue_length`; `queue_length{state=\"waiting\"}`; several series are added up, or\n" +
		"`max(cache_used)` or `min(awake)` of them taken; `cache_percent * 0.01`. In a JSON document a pointer: `/queue/length`, `/workers/*/busy`, or `len(/queue)`.\n")
	b.WriteString("\n## Signals\n\n| signal | meaning |\n|---|---|\n")
	for _, s := range fleet.Signals {
		fmt.Fprintf(&b, "| `%s` | %s |\n", s.Signal, s.Doc)
	}
	b.WriteString("\n## What servers get wrong\n\n" + engine.FlawsPage())
	b.WriteString("\n## Model servers\n\n" + engine.Page())
	return b.String()
}
