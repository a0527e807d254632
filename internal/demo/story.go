package demo

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// tone is how a line looks on a terminal: an ANSI colour, or nothing.
type tone string

const (
	plain  tone = ""
	good   tone = "32"
	bad    tone = "31"
	mailed tone = "36"
	crash  tone = "33"
	faint  tone = "2"
	bold   tone = "1"
)

// story prints what happens as it happens. Several goroutines may tell it.
type story struct {
	mu     sync.Mutex
	out    io.Writer
	colour bool
	began  time.Time
}

// say prints one line: seconds since the start, who, what.
func (s *story) say(who string, t tone, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := fmt.Sprintf("%6.2f s", time.Since(s.began).Seconds())
	fmt.Fprintf(s.out, "%s  %s %s\n", s.paint(faint, at), s.paint(bold, fmt.Sprintf("%-8s", who)), s.paint(t, fmt.Sprintf(format, args...)))
}

// fact prints one line of the summary, and detail fainter behind it.
func (s *story) fact(name string, value any, detail string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	line := fmt.Sprintf("  %-16s%9v", name, value)
	if detail != "" {
		line += "  " + s.paint(faint, detail)
	}
	fmt.Fprintln(s.out, line)
}

// text prints a block as it is.
func (s *story) text(block string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprint(s.out, block)
}

func (s *story) paint(t tone, text string) string {
	if !s.colour || t == plain {
		return text
	}
	return "\x1b[" + string(t) + "m" + text + "\x1b[0m"
}

// ms prints a duration in milliseconds.
func ms(d time.Duration) string {
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
}

// calls prints a number of calls.
func calls(n int) string {
	if n == 1 {
		return "1 call"
	}
	return fmt.Sprintf("%d calls", n)
}
