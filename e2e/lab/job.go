package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	nomad "github.com/hashicorp/nomad/api"
)

// RunJob submits a job specification and returns the job's ID. vars are the
// values of the specification's variables, as HCL expressions.
func (l *Lab) RunJob(ctx context.Context, spec string, vars map[string]string) (string, error) {
	var values strings.Builder
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		fmt.Fprintf(&values, "%s = %s\n", name, vars[name])
	}
	job, err := l.nomad.Jobs().ParseHCLOpts(&nomad.JobsParseRequest{JobHCL: spec, Variables: values.String(), Canonicalize: true})
	if err != nil {
		return "", fmt.Errorf("lab: parse job: %w", err)
	}
	if _, _, err := l.nomad.Jobs().Register(job, (&nomad.WriteOptions{}).WithContext(ctx)); err != nil {
		return "", fmt.Errorf("lab: submit job %s: %w", *job.ID, err)
	}
	return *job.ID, nil
}

// StopJob stops a job without forgetting it.
func (l *Lab) StopJob(ctx context.Context, id string) error {
	if _, _, err := l.nomad.Jobs().Deregister(id, false, (&nomad.WriteOptions{}).WithContext(ctx)); err != nil {
		return fmt.Errorf("lab: stop job %s: %w", id, err)
	}
	return nil
}

// Allocs are the allocations of a job, all of them, the newest first.
func (l *Lab) Allocs(ctx context.Context, job string) ([]*nomad.AllocationListStub, error) {
	allocs, _, err := l.nomad.Jobs().Allocations(job, true, (&nomad.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("lab: allocations of job %s: %w", job, err)
	}
	slices.SortFunc(allocs, func(a, b *nomad.AllocationListStub) int { return int(b.CreateIndex) - int(a.CreateIndex) })
	return allocs, nil
}

// UntilAlloc waits for an allocation of a job to have a client status, such as
// running or complete, and returns it.
func (l *Lab) UntilAlloc(ctx context.Context, job, status string) (found *nomad.AllocationListStub, err error) {
	err = Until(ctx, "job "+job+" has an allocation that is "+status, func(ctx context.Context) (bool, error) {
		allocs, err := l.Allocs(ctx, job)
		for _, a := range allocs {
			if a.ClientStatus == status {
				found = a
				return true, nil
			}
			if a.ClientStatus == nomad.AllocClientStatusFailed {
				return false, errors.New("allocation " + a.ID + " failed: " + events(a))
			}
		}
		return false, err
	})
	return found, err
}

// events is what happened to the tasks of an allocation.
func events(a *nomad.AllocationListStub) string {
	var said []string
	for task, state := range a.TaskStates {
		for _, e := range state.Events {
			said = append(said, task+": "+e.DisplayMessage)
		}
	}
	return strings.Join(said, "; ")
}
