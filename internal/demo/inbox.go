package demo

import (
	"net/http"
	"sync/atomic"

	"github.com/tiergate/tiergate/internal/mail/resendtest"
)

// inbox is the stand-in for Resend, with a trap.
type inbox struct {
	*resendtest.Server
	trap atomic.Pointer[func()]
}

// onNext runs act once Resend has taken the next mail, before it answers; done is closed after that.
func (b *inbox) onNext(act func()) (done <-chan struct{}) {
	sprung := make(chan struct{})
	trap := func() { act(); close(sprung) }
	b.trap.Store(&trap)
	return sprung
}

// ServeHTTP implements http.Handler.
func (b *inbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.Server.ServeHTTP(w, r) // the answer is short: it leaves when this method returns
	if r.Method != http.MethodPost {
		return
	}
	if trap := b.trap.Swap(nil); trap != nil {
		(*trap)()
	}
}

func (b *inbox) to(address string) (resendtest.Mail, bool) {
	for _, m := range b.Inbox() {
		if m.To[0] == address {
			return m, true
		}
	}
	return resendtest.Mail{}, false
}
