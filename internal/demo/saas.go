package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// tables are the application's own. bob has paid since last month.
const tables = `
	CREATE TABLE users (id text PRIMARY KEY, name text NOT NULL, email text NOT NULL);
	CREATE TABLE usage (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id text NOT NULL REFERENCES users,
		endpoint text NOT NULL, method text NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
	CREATE INDEX ON usage (user_id, created_at);
	CREATE TABLE subscriptions (id text PRIMARY KEY, user_id text NOT NULL REFERENCES users, status text NOT NULL,
		plan text NOT NULL, customer text NOT NULL);
	INSERT INTO users SELECT id, initcap(id), id || '@example.com' FROM unnest('{ann,bob,cyd,dan,eve,fay}'::text[]) id;
	INSERT INTO subscriptions VALUES ('sub_0', 'bob', 'active', 'pro', 'cus_bob');`

// mayUse is the query an application copies, with the columns that its 402 shows.
const mayUse = `
	SELECT (allowed OR (reason = 'limit_reached' AND resets_at <= now())) IS TRUE, coalesce(message, ''), used, usage_limit, resets_at
	FROM feature_access WHERE feature = $2 AND subject_id IN ($1, '*') ORDER BY subject_id = '*' LIMIT 1`

// saas is an application as anybody writes one. It knows the sidecar by one table that it reads.
type saas struct {
	pool   *pgxpool.Pool
	url    string // its own address
	stripe string // STRIPE_API_BASE
	secret string // STRIPE_WEBHOOK_SECRET
	client *http.Client

	// Told of every usage row and of every change of a subscription, right after the commit.
	used       func(user string)
	subscribed func(user string, pays bool)
}

// refusal is the body of a 402.
type refusal struct {
	Message  string     `json:"message"`
	Used     int64      `json:"used"`
	Limit    *int64     `json:"limit"`
	ResetsAt *time.Time `json:"resets_at"`
}

func (a *saas) handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, handle := range map[string]func(http.ResponseWriter, *http.Request) error{
		"POST /api/features/{name}":     a.feature,
		"POST /api/subscription/cancel": a.cancel,
		"GET /upgrade":                  a.upgrade,
		"POST /webhooks/stripe":         a.webhook,
		"GET /thanks": func(w http.ResponseWriter, _ *http.Request) error {
			_, err := io.WriteString(w, "Thank you! Your plan is on.\n")
			return err
		},
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := handle(w, r); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
	}
	return mux
}

// user returns who is signed in. The demo's tokens are the users' ids.
func (a *saas) user(r *http.Request) (id string, err error) {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	err = a.pool.QueryRow(r.Context(), `SELECT id FROM users WHERE id = $1`, token).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	return id, err
}

// feature serves one call: it asks whether the user may, and counts the call by inserting a row.
func (a *saas) feature(w http.ResponseWriter, r *http.Request) error {
	user, err := a.user(r)
	if err != nil || user == "" {
		return signIn(w, err)
	}
	ctx := r.Context()
	tx, err := a.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	var allowed bool
	var no refusal
	if err := tx.QueryRow(ctx, mayUse, user, "features").Scan(&allowed, &no.Message, &no.Used, &no.Limit, &no.ResetsAt); err != nil {
		return fmt.Errorf("may %s use this? %w", user, err)
	}
	if !allowed {
		return reply(w, http.StatusPaymentRequired, no)
	}
	if _, err := tx.Exec(ctx, `INSERT INTO usage (user_id, endpoint, method) VALUES ($1, $2, $3)`, user, r.URL.Path, r.Method); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	a.used(user)
	return reply(w, http.StatusOK, map[string]string{"feature": r.PathValue("name")})
}

// upgrade sends the user to Stripe's checkout. A browser has no token: there ?user= says who it is.
func (a *saas) upgrade(w http.ResponseWriter, r *http.Request) error {
	if r.Header.Get("Authorization") == "" {
		r.Header.Set("Authorization", "Bearer "+r.FormValue("user"))
	}
	user, err := a.user(r)
	if err != nil || user == "" {
		return signIn(w, err)
	}
	body := url.Values{"mode": {"subscription"}, "client_reference_id": {user}, "success_url": {a.url + "/thanks"}}
	var session struct{ URL string }
	if err := a.askStripe(r.Context(), http.MethodPost, "/v1/checkout/sessions", body, &session); err != nil {
		return err
	}
	http.Redirect(w, r, session.URL, http.StatusSeeOther)
	return nil
}

// cancel ends the user's subscription at Stripe, which tells the webhook.
func (a *saas) cancel(w http.ResponseWriter, r *http.Request) error {
	user, err := a.user(r)
	if err != nil || user == "" {
		return signIn(w, err)
	}
	var id string
	err = a.pool.QueryRow(r.Context(), `SELECT id FROM subscriptions WHERE user_id = $1 AND status = 'active'`, user).Scan(&id)
	if err != nil {
		return fmt.Errorf("the subscription of %s: %w", user, err)
	}
	if err := a.askStripe(r.Context(), http.MethodDelete, "/v1/subscriptions/"+id, nil, nil); err != nil {
		return err
	}
	return reply(w, http.StatusOK, map[string]string{"canceled": id})
}

// webhook hears from Stripe and writes the subscriptions row.
func (a *saas) webhook(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<16))
	if err != nil {
		return err
	}
	if !signed(a.secret, r.Header.Get("Stripe-Signature"), body) {
		http.Error(w, "not signed by Stripe", http.StatusBadRequest)
		return nil
	}
	var e event
	if err := json.Unmarshal(body, &e); err != nil {
		return err
	}
	var user string
	o := e.Data.Object
	switch e.Type {
	case paid:
		err = a.pool.QueryRow(r.Context(), `INSERT INTO subscriptions VALUES ($1, $2, 'active', 'pro', $3) ON CONFLICT (id) DO UPDATE
			SET status = 'active' RETURNING user_id`, o.Subscription, o.User, o.Customer).Scan(&user)
	case canceled:
		err = a.pool.QueryRow(r.Context(), `UPDATE subscriptions SET status = 'canceled' WHERE id = $1 RETURNING user_id`, o.ID).Scan(&user)
	}
	if err != nil {
		return err
	}
	a.subscribed(user, e.Type == paid)
	return reply(w, http.StatusOK, nil)
}

// askStripe calls Stripe's API.
func (a *saas) askStripe(ctx context.Context, method, path string, form url.Values, answer any) error {
	r, err := http.NewRequestWithContext(ctx, method, a.stripe+path, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := a.client.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, err := io.ReadAll(response.Body)
		return errors.Join(fmt.Errorf("ask Stripe: %s: %s", response.Status, text), err)
	}
	if answer == nil {
		return nil
	}
	return json.NewDecoder(response.Body).Decode(answer)
}

// signIn answers somebody unknown, unless the question itself failed.
func signIn(w http.ResponseWriter, err error) error {
	if err == nil {
		http.Error(w, "who is there? Send Authorization: Bearer eve (or ?user=eve in a browser)", http.StatusUnauthorized)
	}
	return err
}

func reply(w http.ResponseWriter, status int, body any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(body)
}
