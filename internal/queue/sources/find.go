package sources

import (
	"fmt"

	"github.com/gpupool/gpupool/internal/queue"
)

// Find returns the kind of that name.
func Find(name string) (queue.Kind, error) {
	for _, k := range Kinds() {
		if k.Name == name {
			return k, nil
		}
	}
	return queue.Kind{}, fmt.Errorf("there is no kind of source %q", name)
}
