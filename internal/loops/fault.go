package loops

import (
	"errors"
	"fmt"
	"time"
)

// Kind is what may be done about a Fault.
type Kind int

const (
	// Permanent needs a person: the same attempt fails again.
	Permanent Kind = iota
	// Transient may be tried again after a while.
	Transient
	// Gap means that the stream no longer joins the stored position: recount.
	Gap
	// Changed means that tables or publications are not what they were: look at them again.
	Changed
	// Deposed means that another sidecar holds the lease now.
	Deposed
)

// Fault is an error that carries its policy and the way out.
type Fault struct {
	Step       string        // what was being done: "read the change stream"
	Err        error         // what went wrong
	Hint       string        // what a person can do: a statement, a setting; may be empty
	Kind       Kind          // what the sidecar can do
	RetryAfter time.Duration // Transient: not before; zero: the usual back-off
}

// Error prints one line: step, cause and way out.
func (f *Fault) Error() string {
	s := f.Step
	if f.Err != nil {
		s = fmt.Sprintf("%s: %v", s, f.Err)
	}
	if f.Hint != "" {
		s += "\n  → " + f.Hint
	}
	return s
}

// Unwrap returns the cause.
func (f *Fault) Unwrap() error { return f.Err }

// KindOf returns the policy of an error; one without a policy is Transient, because a driver's
// error mostly is a connection's.
func KindOf(err error) Kind {
	var f *Fault
	if errors.As(err, &f) {
		return f.Kind
	}
	return Transient
}
