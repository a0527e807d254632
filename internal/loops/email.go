package loops

import (
	"context"
	"fmt"
	"time"
)

// Email is one row of the outbox: an event that asks for a mail, and what became of it.
type Email struct {
	ID       int64
	EventID  int64
	Subject  string // the subject's id
	Feature  string
	Loop     string
	Kind     string // "blocked", or "warned_80"
	Episode  int64
	Template string
	Skip     string // why it is not sent; empty: it is queued
	Attempts int
	Request  *Message // frozen before the first attempt; nil until then
}

// WarningTemplate is the template of a warning, whatever the loop's prompt says.
const WarningTemplate = "usage_warning"

// Why an email is not sent.
const (
	SkipSilent    = "silent"     // a first count, shadow mode, or a window that is over
	SkipNoPrompt  = "no_prompt"  // the loop mails nobody
	SkipDuplicate = "duplicate"  // this wall was already answered in this episode
	SkipUnblocked = "unblocked"  // the flag is up again
	SkipUpgraded  = "upgraded"   // the subject pays now
	SkipWarned    = "superseded" // blocked meanwhile: that prompt says it
	SkipGone      = "deleted"    // the user was deleted
	SkipAddress   = "no_address" // nobody knows where to write to
)

// Due says whether a queued email still has a reason, just before it is sent: still blocked, not
// paying, still there. It returns the reason to skip it, or "".
func (e *Email) Due(sub *Subject, a *Access) string {
	switch {
	case sub == nil || sub.Deleted:
		return SkipGone
	case a == nil || a.Episode != e.Episode:
		return SkipUnblocked
	case e.Kind == string(Blocked) && a.Allowed && sub.Tier != DefaultTier:
		return SkipUpgraded
	case e.Kind == string(Blocked) && a.Allowed:
		return SkipUnblocked
	case e.Kind != string(Blocked) && !a.Allowed:
		return SkipWarned
	case e.Kind != string(Blocked) && a.Limit == Unlimited:
		return SkipUpgraded
	case sub.Email == "":
		return SkipAddress
	default:
		return ""
	}
}

// Key is the idempotency key: one prompt for each wall and episode.
func (e *Email) Key() string {
	return fmt.Sprintf("%s/%s/%s/%d", e.Loop, e.Kind, e.Subject, e.Episode)
}

// PromptData is what a template may use. Field names are the template's variable names.
type PromptData struct {
	Name       string    // the person's name; empty where it is unknown
	Email      string    // the address it goes to
	Subject    string    // the subject's id
	Feature    string    // "features"
	Tier       string    // "free"
	Used       int64     // uses in this window
	Limit      int64     // uses that fit into it
	Message    string    // the loop's message
	ResetsAt   time.Time // end of the window; zero: a lifetime limit
	UpgradeURL string
}

// Message is a rendered email, as it is frozen in the outbox and handed to a provider.
type Message struct {
	Key     string            `json:"key"` // idempotency key, at most 256 characters
	From    string            `json:"from"`
	To      string            `json:"to"`
	Subject string            `json:"subject"`
	HTML    string            `json:"html"`
	Text    string            `json:"text"`
	Headers map[string]string `json:"headers,omitempty"`
	Tags    map[string]string `json:"tags,omitempty"`
}

// Mailer turns a prompt into a message and hands it to a provider.
type Mailer interface {
	// Render fills a template. It fails with a Fault that names template and variable.
	Render(template string, data PromptData) (Message, error)
	// Send hands one message over, at the provider's rate, and returns the provider's id. A failure is
	// a *Fault: Transient may be tried again (not before RetryAfter), anything else may not.
	Send(ctx context.Context, m Message) (id string, err error)
}
