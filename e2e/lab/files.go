package lab

import (
	"bytes"
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
)

//go:embed templates
var templateFiles embed.FS

var templates = template.Must(template.New("").
	Funcs(template.FuncMap{"quote": quoteHCL}).
	Option("missingkey=error").
	ParseFS(templateFiles, "templates/*"))

// render fills in a template and writes it to path. A BMC's file has a
// password in it, so none can be read by others.
func render(name, path string, fields any) error {
	var text bytes.Buffer
	if err := templates.ExecuteTemplate(&text, name, fields); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	return nil
}

// quoteHCL writes a string that HCL reads back as it is.
func quoteHCL(s string) string {
	return strings.NewReplacer("${", "$${", "%{", "%%{").Replace(strconv.Quote(s))
}

// Logs are the log files of all that runs or ran in the lab: the daemons' and
// those of each host (console, consul, nomad), sorted by name.
func (l *Lab) Logs() []string {
	logs, _ := filepath.Glob(filepath.Join(l.config.Dir, "logs", "*.log"))
	return logs
}

// Tail is the last lines of each log, for a report of a failure.
func (l *Lab) Tail(lines int) string {
	var report strings.Builder
	for _, path := range l.Logs() {
		text, err := os.ReadFile(path)
		if err != nil {
			text = []byte(err.Error())
		}
		all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
		fmt.Fprintf(&report, "==> %s\n%s\n", filepath.Base(path), strings.Join(all[max(0, len(all)-lines):], "\n"))
	}
	return report.String()
}
