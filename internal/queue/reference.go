package queue

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gpupool/gpupool/internal/setting"
)

// Reference prints the generated part of docs/reference/queues.md.
func Reference(kinds []Kind) string {
	var b strings.Builder
	r := setting.NewReader(setting.Place{}, nil)
	new(Queue).declare(r)
	b.WriteString("### In `queue \"NAME\" { ... }`\n\n" + setting.Markdown(r.Fields()))

	r = setting.NewReader(setting.Place{}, nil)
	new(member).declare(r, Kind{}, nil)
	common := r.Fields()
	said := make(map[string]bool)
	for _, k := range kinds {
		for _, f := range k.fields() {
			if slices.Contains(k.Shared, f.Key) && !said[f.Key] {
				said[f.Key] = true
				common = append(common, f)
			}
		}
	}
	b.WriteString("\n### In every `source \"KIND\" { ... }`\n\n" + setting.Markdown(common))

	b.WriteString("\n### Kinds of sources\n\n| kind | counts |\n|---|---|\n")
	for _, k := range kinds {
		fmt.Fprintf(&b, "| [`%s`](#%s) | %s |\n", k.Name, k.Name, k.Doc)
	}
	for _, k := range kinds {
		own := slices.DeleteFunc(k.fields(), func(f setting.Field) bool { return slices.Contains(k.Shared, f.Key) })
		fmt.Fprintf(&b, "\n### `%s`\n\n%s", k.Name, setting.Markdown(own))
	}
	return b.String()
}

// fields are the settings of a kind, each with KEDA's name of it.
func (k Kind) fields() []setting.Field {
	r := setting.NewReader(setting.Place{}, nil)
	k.Declare(r)
	own := len(r.Fields())
	new(member).declare(r, k, func(string) bool { return false })
	fields := r.Fields()[:own+len(k.Targets)]
	for i := range fields {
		if name := k.KEDA[fields[i].Key]; name != "" {
			fields[i].Doc += " KEDA: `" + strings.ReplaceAll(name, ", ", "`, `") + "`."
		}
	}
	return fields
}
