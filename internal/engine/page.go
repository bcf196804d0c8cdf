package engine

import (
	"fmt"
	"strings"
)

// Page is the table of profiles for the reference page, in Markdown.
func Page() string {
	var b strings.Builder
	b.WriteString("| name | model server | metrics | ready when | recognized by |\n|---|---|---|---|---|\n")
	for _, p := range Profiles {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", p.Name, p.Title, p.source(), p.ready(), p.recognized())
	}
	for _, p := range Profiles {
		fmt.Fprintf(&b, "\n### %s\n\n%s", p.Title, p.Note)
		if p.Sleep != nil {
			fmt.Fprintf(&b, " It is put to sleep by `POST %s` and woken by `POST %s`.", p.Sleep.Enter, p.Sleep.Leave)
		}
		b.WriteString("\n")
		if len(p.From) == 0 {
			continue
		}
		b.WriteString("\n| measure | metric, the first that is there |\n|---|---|\n")
		for _, m := range Measures {
			var names []string
			for _, s := range p.From[m.Measure] {
				names = append(names, "`"+s.String()+"`")
			}
			if names != nil {
				fmt.Fprintf(&b, "| %s | %s |\n", m.Measure, strings.Join(names, ", "))
			}
		}
	}
	return b.String()
}

func (p Profile) source() string {
	switch {
	case p.Metrics != "":
		return "`" + p.Metrics + "`"
	case p.JSON != "":
		return "`" + p.JSON + "`, JSON"
	}
	return "none"
}

func (p Profile) ready() string {
	text := fmt.Sprintf("`%s` answers 200", p.Health)
	if p.Models != "" {
		text += fmt.Sprintf(" and `%s` names a model", p.Models)
	}
	return text
}

func (p Profile) recognized() string {
	var words []string
	for _, h := range p.Hints {
		words = append(words, fmt.Sprintf("`%s` in image or command", h))
	}
	for _, x := range p.Prefixes {
		words = append(words, fmt.Sprintf("metrics `%s*`", x))
	}
	if words == nil {
		return "meta alone"
	}
	return strings.Join(words, ", ")
}

// FlawsPage is the table of flaws for the reference page, in Markdown.
func FlawsPage() string {
	var b strings.Builder
	b.WriteString("| flaw | meaning |\n|---|---|\n")
	for _, f := range Flaws {
		fmt.Fprintf(&b, "| `%s` | %s |\n", f.Flaw, f.Doc)
	}
	return b.String()
}
