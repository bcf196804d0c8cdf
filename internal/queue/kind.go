package queue

import "github.com/gpupool/gpupool/internal/setting"

// Kind is a queue system: a line of the table in package sources.
type Kind struct {
	// Name is the label of its source blocks: the type of KEDA's scaler,
	// where there is one.
	Name string
	// Doc says in a line what is counted.
	Doc string
	// Targets are the keys for how much work one unit of capacity should
	// have, by KEDA's names. At most one of them is given.
	Targets []string
	// Shared are keys that sources of other kinds have too, with the same
	// meaning.
	Shared []string
	// KEDA has KEDA's name of each key that has one.
	KEDA map[string]string
	// Declare reads the settings of a source, recording mistakes in the
	// reader. It does no I/O but to look at files that the settings name.
	// Open may be called if there were none; it sends nothing.
	Declare func(*setting.Reader) Open
}

// Open makes a source of settings that were read.
type Open func() (Source, error)

// KindOf completes a kind with how a source of it is declared and made.
func KindOf[C any, S Source](k Kind, declare func(*setting.Reader) C, open func(C) (S, error)) Kind {
	k.Declare = func(r *setting.Reader) Open {
		cfg := declare(r)
		return func() (Source, error) {
			s, err := open(cfg)
			if err != nil {
				return nil, err // not s: a nil *S is no nil Source
			}
			return s, nil
		}
	}
	return k
}
