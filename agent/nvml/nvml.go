// Package nvml reaches NVIDIA GPUs through NVML, the library that comes with
// their driver. It implements the [gpu.Driver] interface.
//
// NVML is loaded at run time, so the agent is built on machines without it and
// starts on hosts without it. Building needs cgo; without (CGO_ENABLED=0) the
// package still builds, and its driver says at Init that it cannot reach any
// GPU. One process must have one [Library] only: go-nvml keeps what it found
// in the library in package variables.
package nvml

import "github.com/gpupool/gpupool/agent/gpu"

// DefaultPath is the library's name, which the dynamic linker looks up.
const DefaultPath = "libnvidia-ml.so.1"

var _ gpu.Driver = (*Library)(nil)
