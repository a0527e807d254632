package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

const (
	maxLoopsProblems = 50  // more are counted, not printed
	maxSourceLine    = 140 // characters of the offending line that are shown
)

// LoopsProblem is one thing that is wrong in a loop file.
type LoopsProblem struct {
	File    string `json:"file"`
	Line    int    `json:"line"`   // from 1
	Column  int    `json:"column"` // from 1, in characters
	Problem string `json:"problem"`
	Source  string `json:"source"` // the offending line
	Hint    string `json:"hint"`   // what was expected; may be empty
}

func newLoopsProblem(at nodePos, hint, format string, args ...any) LoopsProblem {
	return LoopsProblem{File: at.file.name, Line: at.line, Column: at.column, Source: at.file.line(at.line),
		Problem: fmt.Sprintf(format, args...), Hint: hint}
}

// String prints the problem, the offending line with a caret, and what was expected.
func (p LoopsProblem) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d:%d: %s\n", p.File, p.Line, p.Column, p.Problem)
	if strings.TrimSpace(p.Source) != "" {
		line, start := nodeClip(p.Source, p.Column-1, maxSourceLine)
		fmt.Fprintf(&b, "%5d | %s\n", p.Line, line)
		fmt.Fprintf(&b, "%5s | %s^\n", "", strings.Repeat(" ", p.Column-1-start))
	}
	if p.Hint != "" {
		fmt.Fprintf(&b, "  → %s\n", p.Hint)
	}
	return b.String()
}

// LoopsError is every problem of all loop files, by file, line and column.
type LoopsError struct {
	Problems []LoopsProblem
}

func newLoopsError(problems []LoopsProblem) *LoopsError {
	slices.SortStableFunc(problems, func(a, b LoopsProblem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return &LoopsError{Problems: problems}
}

// Error prints every problem as file:line:column, with the offending line and what was expected.
func (e *LoopsError) Error() string {
	var b strings.Builder
	for i, p := range e.Problems {
		if i == maxLoopsProblems {
			fmt.Fprintf(&b, "\n… and %d more", len(e.Problems)-i)
			break
		}
		if i > 0 {
			b.WriteString("\n")
		}
		b.WriteString(p.String())
	}
	return strings.TrimRight(b.String(), "\n")
}
