package tune

import (
	"fmt"
	"io"
	"strings"

	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
)

// PolicyHeader is how a file that WritePolicy wrote begins.
const PolicyHeader = "# gpupool tune:"

// WritePolicy writes the chosen setting as a strategy block in HCL, to be put
// into a check of a scaling policy. Its comment has the figures, the warnings
// and the command that it came from.
func (r *Report) WritePolicy(w io.Writer, command string) error {
	var text strings.Builder
	text.WriteString(r.comment(command))
	f := hclwrite.NewEmptyFile()
	body := f.Body().AppendNewBlock("strategy", []string{"gpupool"}).Body()
	u := r.rules
	for _, stated := range []struct{ key, value string }{
		{"units", fmt.Sprint(u.Units)}, {"min", fmt.Sprint(u.Min)}, {"max", fmt.Sprint(u.Max)}, {"interval", short(u.Interval)},
		{"lead_time", short(u.Lead)}, {"slo", percentage(u.SLO)}, {"slo_wait", short(u.Wait)},
	} {
		if _, tuned := r.Chosen.Settings[stated.key]; !tuned {
			body.SetAttributeValue(stated.key, cty.StringVal(stated.value))
		}
	}
	if len(r.Chosen.Settings) > 0 {
		body.AppendNewline()
	}
	for _, k := range r.keys(r.Chosen) {
		body.SetAttributeValue(k, cty.StringVal(r.Chosen.Settings[k]))
	}
	text.Write(hclwrite.Format(f.Bytes()))
	_, err := io.WriteString(w, text.String())
	return err
}

func (r *Report) comment(command string) string {
	var b strings.Builder
	line := func(format string, args ...any) {
		// A line break would end the comment.
		fmt.Fprintf(&b, "# %s\n", strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " "))
	}
	b.WriteString(PolicyHeader + " the chosen settings, as a strategy block for a check of a scaling policy.\n#\n")
	line("%s", command)
	b.WriteString("#\n")
	c := r.Chosen
	line("On %d days: cost %s, %.0f GPU-hours, %d starts, %s on time (wanted: %s within %gs), worst day %s.",
		c.Days, money(c.Cost), c.GPUHours, c.PowerCycles, percent(c.Attainment), percent(r.SLO), r.SLOWaitS, percent(c.WorstDay))
	line("As it comes: cost %s, %s on time.", money(r.Default.Cost), percent(r.Default.Attainment))
	if h := r.HeldOut; h != nil {
		line("On %ss held out: cost %s, %s on time.", h.Unit, money(h.Held.Cost), percent(h.Held.Attainment))
	}
	line("%s", r.Advice.sentence())
	for _, s := range r.Warnings {
		line("Warning: %s.", s)
	}
	line("The keys before the empty line are the simulated pool's: make them yours.")
	return b.String()
}
