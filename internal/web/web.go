package web

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tiergate/tiergate/internal/loops"
)

// Admin is the address for operators: /healthz (the process lives), /readyz (it follows the stream),
// /metrics, and / with the facts that `sidecar status` prints.
type Admin struct {
	Metrics *Metrics
	Ready   func() error                           // why it is not ready; nil: it is
	Status  func(ctx context.Context) (any, error) // facts for /, as JSON
	Token   string                                 // asked for on / only; empty: none
}

// Handler returns the routes.
func (a *Admin) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := a.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.Metrics.Registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /{$}", a.status)
	return mux
}

func (a *Admin) status(w http.ResponseWriter, r *http.Request) {
	given := []byte(r.Header.Get("Authorization"))
	if a.Token != "" && subtle.ConstantTimeCompare(given, []byte("Bearer "+a.Token)) != 1 {
		w.Header().Set("WWW-Authenticate", "Bearer")
		http.Error(w, "this page needs the token in admin.token", http.StatusUnauthorized)
		return
	}
	facts, err := a.Status(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	out.Encode(facts) //nolint:errcheck // the client went away
}

// Listen takes the address. One that is taken is a Permanent fault.
func (a *Admin) Listen(address string) (net.Listener, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, &loops.Fault{Step: "listen on " + address, Err: err, Hint: "set admin.listen (TIERGATE_ADMIN_LISTEN) to a free address", Kind: loops.Permanent}
	}
	return listener, nil
}

// Serve answers until ctx ends.
func (a *Admin) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{Handler: a.Handler(), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second}
	stop := context.AfterFunc(ctx, func() { server.Close() }) //nolint:errcheck // nothing is left to lose
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
