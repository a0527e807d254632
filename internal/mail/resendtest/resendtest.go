// Package resendtest is a stand-in for Resend's API that keeps what it is sent: for tests, and for a
// demonstration without an account. Point RESEND_BASE_URL at it.
//
// It behaves like Resend where that matters to a sender: a bearer key, required fields, a rate with its
// headers, and idempotency (the same key and body deliver once and get the same id; the same key with
// another body gets 409; keys are never forgotten). It can be told to fail in every way Resend does.
//
//	POST /emails       Resend's own
//	GET  /             the inbox, for people
//	GET  /inbox        the inbox, as JSON: an array of Mail
//	GET  /inbox/{id}   one mail's HTML
package resendtest

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

//go:embed inbox.html
var inboxPage string

// Mail is one delivered email.
type Mail struct {
	ID      string            `json:"id"`
	Key     string            `json:"key"` // the idempotency key; may be empty
	At      time.Time         `json:"at"`
	From    string            `json:"from"`
	To      []string          `json:"to"`
	Subject string            `json:"subject"`
	HTML    string            `json:"html"`
	Text    string            `json:"text"`
	Headers map[string]string `json:"headers"`
	Tags    []Tag             `json:"tags"`
}

// Tag is a name and a value that a mail is found by.
type Tag struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Refusal is an answer that is not a success.
type Refusal struct {
	Status     int    `json:"statusCode"`
	Name       string `json:"name"` // "rate_limit_exceeded"
	Message    string `json:"message"`
	RetryAfter int    `json:"-"` // seconds, for the retry-after header; 0: none
}

// Server is the stand-in, an http.Handler.
type Server struct {
	key     string
	limiter *rate.Limiter
	mux     *http.ServeMux

	mu       sync.Mutex
	inbox    []Mail
	accepted map[string]request // by idempotency key
	faults   []fault
	requests int
}

type request struct {
	body []byte
	id   string
}

// fault is what happens to one request: a refusal, no answer at all, or a delivery whose answer is lost.
type fault struct {
	refusal    Refusal
	hang, lose bool
}

// New returns an empty stand-in that accepts one API key (any, if it is empty) and so many requests a
// second (0: any number).
func New(apiKey string, perSecond float64) *Server {
	s := &Server{key: apiKey, mux: http.NewServeMux(), accepted: map[string]request{}}
	if perSecond > 0 {
		s.limiter = rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond)))
	}
	page := template.Must(template.New("inbox").Parse(inboxPage))
	s.mux.HandleFunc("POST /emails", s.send)
	s.mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		mails := s.Inbox()
		slices.Reverse(mails)
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_ = page.Execute(w, mails) // a reader who has left
	})
	s.mux.HandleFunc("GET /inbox", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, s.Inbox()) })
	s.mux.HandleFunc("GET /inbox/{id}", s.mail)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, Refusal{Status: http.StatusNotFound, Name: "not_found", Message: "The requested endpoint does not exist."})
	})
	return s
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Inbox returns the delivered mails, oldest first.
func (s *Server) Inbox() []Mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Mail{}, s.inbox...)
}

// Requests returns how many times somebody asked to send a mail, however it ended.
func (s *Server) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// Fail refuses the next requests to send with a status, in the words Resend has for it.
func (s *Server) Fail(status, times int) {
	r := Refusal{Status: status, Name: "application_error", Message: "An unexpected error occurred."}
	switch status {
	case http.StatusUnauthorized:
		r.Name, r.Message = "missing_api_key", "Missing API key in the authorization header."
	case http.StatusForbidden:
		r.Name, r.Message = "invalid_api_key", "API key is invalid."
	case http.StatusConflict:
		r.Name, r.Message = "concurrent_idempotent_requests", "Same idempotency key used while original request is still in progress."
	case http.StatusUnprocessableEntity:
		r.Name, r.Message = "validation_error", "Invalid `to` field."
	case http.StatusTooManyRequests:
		r.Name, r.Message, r.RetryAfter = "rate_limit_exceeded", "Too many requests.", 1
	}
	s.Refuse(r, times)
}

// Refuse answers the next requests to send with a refusal.
func (s *Server) Refuse(r Refusal, times int) { s.schedule(fault{refusal: r}, times) }

// Hang leaves the next requests to send without an answer, and delivers nothing.
func (s *Server) Hang(times int) { s.schedule(fault{hang: true}, times) }

// Lose delivers the next mails and then breaks the connection instead of answering.
func (s *Server) Lose(times int) { s.schedule(fault{lose: true}, times) }

func (s *Server) schedule(f fault, times int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, slices.Repeat([]fault{f}, times)...)
}

// next counts a request and takes the fault that waits for it.
func (s *Server) next() (f fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	if len(s.faults) > 0 {
		f, s.faults = s.faults[0], s.faults[1:]
	}
	return f
}

func (s *Server) send(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	f := s.next()
	switch {
	case f.hang:
		<-r.Context().Done()
		return
	case f.refusal.Status != 0:
		refuse(w, f.refusal)
		return
	}
	key, isBearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case !isBearer || key == "":
		refuse(w, Refusal{Status: http.StatusUnauthorized, Name: "missing_api_key", Message: "Missing API key in the authorization header."})
	case s.key != "" && key != s.key:
		refuse(w, Refusal{Status: http.StatusForbidden, Name: "invalid_api_key", Message: "API key is invalid."})
	case s.limiter != nil && !s.limiter.Allow():
		w.Header().Set("ratelimit-limit", strconv.Itoa(s.limiter.Burst()))
		w.Header().Set("ratelimit-remaining", "0")
		w.Header().Set("ratelimit-reset", "1")
		refuse(w, Refusal{Status: http.StatusTooManyRequests, Name: "rate_limit_exceeded", Message: "Too many requests.", RetryAfter: 1})
	default:
		id, refusal := s.accept(r.Header.Get("Idempotency-Key"), body)
		switch {
		case refusal.Status != 0:
			refuse(w, refusal)
		case f.lose:
			panic(http.ErrAbortHandler) // net/http's way to break a connection
		default:
			answer(w, http.StatusOK, map[string]string{"id": id})
		}
	}
}

// accept delivers a mail unless its key has been seen.
func (s *Server) accept(key string, body []byte) (id string, no Refusal) {
	if len(key) > 256 {
		return "", Refusal{Status: http.StatusBadRequest, Name: "invalid_idempotency_key", Message: "The key must be between 1-256 chars."}
	}
	var m Mail
	if err := json.Unmarshal(body, &m); err != nil {
		return "", Refusal{Status: http.StatusBadRequest, Name: "validation_error", Message: "The body is not an email: " + err.Error()}
	}
	if no := validate(m); no.Status != 0 {
		return "", no
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if before, ok := s.accepted[key]; ok && key != "" {
		if !bytes.Equal(before.body, body) {
			return "", Refusal{Status: http.StatusConflict, Name: "invalid_idempotent_request", Message: "Same idempotency key used with a different request payload."}
		}
		return before.id, Refusal{}
	}
	m.ID, m.Key, m.At = fmt.Sprintf("mail_%d", len(s.inbox)+1), key, time.Now().UTC()
	s.inbox = append(s.inbox, m)
	s.accepted[key] = request{body, m.ID}
	return m.ID, Refusal{}
}

// validate refuses a mail as Resend does.
func validate(m Mail) Refusal {
	missing := ""
	switch {
	case m.From == "":
		missing = "from"
	case len(m.To) == 0:
		missing = "to"
	case m.Subject == "":
		missing = "subject"
	case m.HTML == "" && m.Text == "":
		missing = "html"
	}
	if missing != "" {
		return Refusal{Status: http.StatusUnprocessableEntity, Name: "missing_required_field", Message: "Missing `" + missing + "` field."}
	}
	for _, tag := range m.Tags {
		for _, text := range []string{tag.Name, tag.Value} {
			if text == "" || strings.Trim(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
				return Refusal{Status: http.StatusUnprocessableEntity, Name: "validation_error", Message: "Tags should only contain ASCII letters, numbers, underscores, or dashes."}
			}
		}
	}
	return Refusal{}
}

// mail shows one mail as its reader sees it; it is somebody else's HTML, so nothing in it may run.
func (s *Server) mail(w http.ResponseWriter, r *http.Request) {
	for _, m := range s.Inbox() {
		if m.ID == r.PathValue("id") {
			w.Header().Set("Content-Security-Policy", "sandbox allow-popups")
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = io.WriteString(w, m.HTML) // a reader who has left
			return
		}
	}
	http.NotFound(w, r)
}

func refuse(w http.ResponseWriter, r Refusal) {
	if r.RetryAfter > 0 {
		w.Header().Set("retry-after", strconv.Itoa(r.RetryAfter))
	}
	answer(w, r.Status, r)
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a client that has left
}
