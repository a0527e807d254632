package web_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
	"github.com/tiergate/tiergate/internal/web"
)

func admin() *web.Admin {
	return &web.Admin{
		Metrics: web.NewMetrics(),
		Ready:   func() error { return nil },
		Status:  func(context.Context) (any, error) { return map[string]int{"subjects": 3}, nil },
	}
}

func TestRoutes(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*web.Admin)
		path   string
		token  string
		code   int
		body   string
	}{
		"alive":             {path: "/healthz", code: 200, body: "ok"},
		"ready":             {path: "/readyz", code: 200, body: "ready"},
		"not ready":         {change: func(a *web.Admin) { a.Ready = func() error { return errors.New("counting") } }, path: "/readyz", code: 503, body: "counting"},
		"status":            {path: "/", code: 200, body: `"subjects": 3`},
		"status, no token":  {change: func(a *web.Admin) { a.Token = "s3cret" }, path: "/", code: 401, body: "admin.token"},
		"status, wrong":     {change: func(a *web.Admin) { a.Token = "s3cret" }, path: "/", token: "other", code: 401, body: "admin.token"},
		"status, token":     {change: func(a *web.Admin) { a.Token = "s3cret" }, path: "/", token: "s3cret", code: 200, body: "subjects"},
		"alive, no token":   {change: func(a *web.Admin) { a.Token = "s3cret" }, path: "/healthz", code: 200, body: "ok"},
		"metrics, no token": {change: func(a *web.Admin) { a.Token = "s3cret" }, path: "/metrics", code: 200, body: "tiergate_changes_total"},
		"database is gone": {change: func(a *web.Admin) {
			a.Status = func(context.Context) (any, error) { return nil, errors.New("connection refused") }
		}, path: "/", code: 503, body: "connection refused"},
		"elsewhere": {path: "/nothing", code: 404},
	} {
		t.Run(name, func(t *testing.T) {
			a := admin()
			if c.change != nil {
				c.change(a)
			}
			request := httptest.NewRequest(http.MethodGet, c.path, nil)
			if c.token != "" {
				request.Header.Set("Authorization", "Bearer "+c.token)
			}
			answer := httptest.NewRecorder()
			a.Handler().ServeHTTP(answer, request)
			if answer.Code != c.code || !strings.Contains(answer.Body.String(), c.body) {
				t.Errorf("GET %s: %d %q, want %d with %q", c.path, answer.Code, answer.Body, c.code, c.body)
			}
		})
	}
}

func TestMetricsCount(t *testing.T) {
	a := admin()
	a.Metrics.Applied(7, 2, 1, 3, 4, time.Now().Add(-time.Second))
	a.Metrics.Observed(4096, map[string]int64{"queued": 5})
	answer := httptest.NewRecorder()
	a.Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, line := range []string{
		"tiergate_changes_total 7", "tiergate_events_total 2", "tiergate_usage_late_total 1", "tiergate_usage_unknown_total 3", "tiergate_over_run_total 4",
		"tiergate_commits_total 1", "tiergate_lag_seconds_count 1", "tiergate_retained_wal_bytes 4096", `tiergate_emails{status="queued"} 5`,
	} {
		if !strings.Contains(answer.Body.String(), line+"\n") {
			t.Errorf("no line %q in\n%s", line, answer.Body)
		}
	}
}

func TestTakenAddress(t *testing.T) {
	first, err := admin().Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	_, err = admin().Listen(first.Addr().String())
	if loops.KindOf(err) != loops.Permanent || !strings.Contains(err.Error(), "admin.listen") {
		t.Errorf("a taken address: %v", err)
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	a := admin()
	listener, err := a.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Serve(ctx, listener) }()
	answer, err := http.Get("http://" + listener.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
}
