package queue

import (
	"fmt"
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
	b.WriteString("\n### In every `source \"KIND\" { ... }`\n\n" + setting.Markdown(r.Fields()))

	b.WriteString("\n## Kinds of sources\n\n| kind | counts |\n|---|---|\n")
	for _, k := range kinds {
		fmt.Fprintf(&b, "| [`%s`](#%s) | %s |\n", k.Name, k.Name, k.Doc)
	}
	for _, k := range kinds {
		fmt.Fprintf(&b, "\n### `%s`\n\n%s\n", k.Name, setting.Markdown(k.fields()))
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// fields are the settings of a kind, each with KEDA's name of it.
func (k Kind) fields() []setting.Field {
	r := setting.NewReader(setting.Place{}, nil)
	k.Declare(r)
	common := len(r.Fields())
	new(member).declare(r, k, func(string) bool { return false })
	fields := r.Fields()[:common+len(k.Targets)]
	for i := range fields {
		if name := k.KEDA[fields[i].Key]; name != "" {
			fields[i].Doc += " KEDA: `" + strings.ReplaceAll(name, ", ", "`, `") + "`."
		}
	}
	return fields
}
