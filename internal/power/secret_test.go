package power_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/gpupool/gpupool/internal/power"
)

func TestSecretNeverPrints(t *testing.T) {
	const clear = "hunter2-hunter2"
	s := power.Secret(clear)
	in := struct {
		P power.Secret
		Q *power.Secret
	}{s, &s}

	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("config", "secret", s, "struct", in)
	js, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	outputs := map[string]string{"slog": log.String(), "json": string(js)}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		outputs[verb] = fmt.Sprintf(verb, s) + fmt.Sprintf(verb, in.P) + fmt.Sprintf(verb, []power.Secret{s})
		outputs[verb+" of struct"] = fmt.Sprintf(verb, struct{ P power.Secret }{s})
	}
	hex := fmt.Sprintf("%x", clear)
	for how, out := range outputs {
		if strings.Contains(out, clear) || strings.Contains(strings.ToLower(out), hex) {
			t.Errorf("%s prints the secret: %s", how, out)
		}
	}
	if s.Reveal() != clear {
		t.Errorf("Reveal = %q, want the secret", s.Reveal())
	}
}
