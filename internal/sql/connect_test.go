package sql

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tiergate/tiergate/internal/loops"
)

// refused is what a failed attempt to dial an address looks like in pgx.
func refused(address string, cause error) error {
	return fmt.Errorf("dial error: %w", &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.ParseIP(address), Port: 5432}, Err: cause})
}

func TestNoIPv6(t *testing.T) {
	const six = "2a05:d014::30df"
	for _, test := range []struct {
		name string
		err  error
		want bool
	}{
		{"no route", refused(six, syscall.ENETUNREACH), true},
		{"no route, with and without TLS", errors.Join(refused(six, syscall.ENETUNREACH), refused(six, syscall.EADDRNOTAVAIL)), true},
		{"IPv4 too", errors.Join(refused(six, syscall.ENETUNREACH), refused("192.0.2.1", syscall.ECONNREFUSED)), false},
		{"nobody listens", refused(six, syscall.ECONNREFUSED), false},
		{"IPv4 without route", refused("192.0.2.1", syscall.ENETUNREACH), false},
		{"unknown host", &net.DNSError{Err: "no such host"}, false},
	} {
		if got := noIPv6(test.err); got != test.want {
			t.Errorf("%s: %t", test.name, got)
		}
	}
}

// TestNoIPv6Says has pgx make the error.
func TestNoIPv6Says(t *testing.T) {
	config, err := pgconn.ParseConfig("postgres://u@db.abc.supabase.co/db")
	if err != nil {
		t.Fatal(err)
	}
	config.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"2a05:d014::30df"}, nil }
	config.DialFunc = func(_ context.Context, _, address string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address)), Err: os.NewSyscallError("connect", syscall.ENETUNREACH)}
	}
	_, err = pgconn.ConnectConfig(t.Context(), config)
	var fault *loops.Fault
	if !errors.As(explain("connect", err), &fault) || !strings.Contains(fault.Hint, "IPv4 add-on") {
		t.Error(fault)
	}
}

// TestBounds: a session that comes without its bounds is refused. What no pooler does here, the wrong
// expectation does.
func TestBounds(t *testing.T) {
	a := newApp(t)
	conn, err := Connect(t.Context(), a.url, ForCommand)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.End()
	if err := bounded(t.Context(), conn.life.(postgresLink).Conn, "5s"); err != nil {
		t.Error(err)
	}
	var fault *loops.Fault
	if err := bounded(t.Context(), conn.life.(postgresLink).Conn, "6s"); !errors.As(err, &fault) || fault.Kind != loops.Permanent || !strings.Contains(fault.Hint, "DIRECT_URL") {
		t.Error(err)
	}
}
