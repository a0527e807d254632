package main

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// TestAdminOutlivesASession asks for health while the sidecar begins again: who watches it must hear that
// it lives, and why it is not ready.
func TestAdminOutlivesASession(t *testing.T) {
	a := newApp(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	a.set("TIERGATE_ADMIN_LISTEN", address)
	get := func(path string) (status int, text string) {
		t.Helper()
		r, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, string(body)
	}
	p := a.start("run")
	ready := func() bool { status, _ := get("/readyz"); return status == http.StatusOK }
	await(t, "the sidecar to be ready", ready)
	a.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tiergate lease' AND datname = current_database()`)
	await(t, "the sidecar to say why it is not ready", func() bool {
		status, text := get("/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(text, "hold the lease")
	})
	if status, _ := get("/healthz"); status != http.StatusOK {
		t.Errorf("it lives, and /healthz says %d", status)
	}
	await(t, "the sidecar to be ready again", ready)
	p.stop()
}
