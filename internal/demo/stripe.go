package demo

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// stripe is a stand-in for as much of Stripe as the application uses: a checkout page, a
// subscription that can be ended, and a signed webhook.
type stripe struct {
	url     string // its own address
	webhook string // the application's
	secret  string
	client  *http.Client

	mu       sync.Mutex
	sessions []checkout
}

type checkout struct{ user, success string }

// Types of events.
const (
	paid     = "checkout.session.completed"
	canceled = "customer.subscription.deleted"
)

// event is what a webhook carries, as far as the application reads it.
type event struct {
	Type string `json:"type"`
	Data struct {
		Object object `json:"object"`
	} `json:"data"`
}

type object struct {
	ID           string `json:"id"`
	User         string `json:"client_reference_id,omitempty"`
	Subscription string `json:"subscription,omitempty"`
	Customer     string `json:"customer,omitempty"`
	Status       string `json:"status,omitempty"`
}

func (s *stripe) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/checkout/sessions", s.begin)
	mux.HandleFunc("DELETE /v1/subscriptions/{id}", s.end)
	mux.HandleFunc("GET /pay/{session}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, `<!doctype html><title>Checkout</title><h1>Pro, 20.00 a month</h1><form method="post"><button>Pay</button></form>`)
	})
	mux.HandleFunc("POST /pay/{session}", s.pay)
	return mux
}

// begin opens a checkout session and answers with its page.
func (s *stripe) begin(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions = append(s.sessions, checkout{r.FormValue("client_reference_id"), r.FormValue("success_url")})
	answer := map[string]string{"url": fmt.Sprintf("%s/pay/%d", s.url, len(s.sessions))}
	_ = reply(w, http.StatusOK, answer) // a client that has left
}

// pay tells the application, and sends the payer back to it.
func (s *stripe) pay(w http.ResponseWriter, r *http.Request) {
	session, ok := s.session(r.PathValue("session"))
	if !ok {
		http.NotFound(w, r)
		return
	}
	id := r.PathValue("session")
	err := s.tell(r.Context(), paid,
		object{ID: "cs_" + id, User: session.user, Subscription: "sub_" + id, Customer: "cus_" + session.user})
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	http.Redirect(w, r, session.success, http.StatusSeeOther)
}

func (s *stripe) session(id string) (checkout, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, session := range s.sessions {
		if fmt.Sprint(i+1) == id {
			return session, true
		}
	}
	return checkout{}, false
}

// end cancels a subscription.
func (s *stripe) end(w http.ResponseWriter, r *http.Request) {
	o := object{ID: r.PathValue("id"), Status: "canceled"}
	if err := s.tell(r.Context(), canceled, o); err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	_ = reply(w, http.StatusOK, o) // a client that has left
}

// tell calls the application's webhook.
func (s *stripe) tell(ctx context.Context, kind string, o object) error {
	e := event{Type: kind}
	e.Data.Object = o
	body, err := json.Marshal(e)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.webhook, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Stripe-Signature", sign(s.secret, fmt.Sprint(time.Now().Unix()), body))
	response, err := s.client.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the webhook answers %s", response.Status)
	}
	return nil
}

// sign returns the header that Stripe signs a webhook with: t=TIME,v1=HMAC of "TIME.BODY".
func sign(secret, at string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "%s.%s", at, body)
	return "t=" + at + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}

// signed reports whether a webhook's header was made with the secret.
func signed(secret, header string, body []byte) bool {
	at, _, _ := strings.Cut(strings.TrimPrefix(header, "t="), ",")
	return hmac.Equal([]byte(header), []byte(sign(secret, at, body)))
}
