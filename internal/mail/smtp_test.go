package mail

import (
	"bufio"
	"fmt"
	"net"
	"net/mail"
	"slices"
	"strings"
	"testing"

	"github.com/tiergate/tiergate/internal/loops"
)

// catcher is an SMTP server for one connection at a time; replies overrides its answer to a verb,
// where "drop" hangs up.
type catcher struct {
	replies map[string]string
	mails   chan string
}

// listen starts the catcher and returns its host and port.
func (c *catcher) listen(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	c.mails = make(chan string, 10)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			c.serve(conn)
		}
	}()
	return listener.Addr().String()
}

func (c *catcher) serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewScanner(conn)
	defaults := map[string]string{"EHLO": "250-catcher\r\n250-8BITMIME\r\n250 AUTH PLAIN", "DATA": "354 go on", "AUTH": "235 welcome", "QUIT": "221 bye"}
	fmt.Fprint(conn, "220 catcher\r\n")
	for in.Scan() {
		verb := strings.ToUpper(strings.Fields(in.Text() + " -")[0])
		reply := c.replies[verb]
		if reply == "" {
			reply = defaults[verb]
		}
		if reply == "" {
			reply = "250 fine"
		}
		if reply == "drop" {
			return
		}
		fmt.Fprintf(conn, "%s\r\n", reply)
		if strings.HasPrefix(reply, "354") {
			var text strings.Builder
			for in.Scan() && in.Text() != "." {
				text.WriteString(in.Text() + "\n")
			}
			c.mails <- text.String()
			fmt.Fprint(conn, "250 taken\r\n")
		}
	}
}

func throughSMTP(t *testing.T, address string) *Mailer {
	t.Helper()
	c := ready()
	c.ResendKey, c.SMTPURL = "", address
	return newMailer(t, c)
}

func TestSMTPDelivers(t *testing.T) {
	for _, login := range []string{"", "ann:p%40ss@"} {
		c := &catcher{}
		m := throughSMTP(t, "smtp://"+login+c.listen(t))
		data := samples()[0]
		data.Feature = "Größe\r\nBcc: all@example.com"
		msg, err := m.Render("upgrade_prompt", data)
		if err != nil {
			t.Fatal(err)
		}
		msg.Key = "blocked/ann/features/1"
		id, err := m.Send(t.Context(), msg)
		if err != nil {
			t.Fatal(err)
		}
		got, err := mail.ReadMessage(strings.NewReader(<-c.mails))
		if err != nil {
			t.Fatal(err)
		}
		h := got.Header
		if h.Get("Message-Id") != "<"+id+">" || h.Get("To") != "<ann@example.com>" || h.Get("From") != `"Acme" <hello@acme.com>` || h.Get("Bcc") != "" {
			t.Errorf("id %s, headers %v", id, h)
		}
		if !strings.HasPrefix(h.Get("Content-Type"), "multipart/alternative") || h.Get("Auto-Submitted") != "auto-generated" || h.Get("Date") == "" {
			t.Errorf("headers %v", h)
		}
		if again := messageID(msg.Key, "hello@acme.com"); again != id || messageID("other", "hello@acme.com") == id {
			t.Errorf("the id %s does not follow from the key: %s", id, again)
		}
	}
}

func TestSMTPPolicy(t *testing.T) {
	for _, c := range []struct {
		verb, reply string
		kind        loops.Kind
	}{
		{"RCPT", "550 no such mailbox", loops.Permanent},
		{"RCPT", "450 greylisted", loops.Transient},
		{"MAIL", "421 closing", loops.Transient},
		{"DATA", "554 rejected", loops.Permanent},
		{"DATA", "drop", loops.Transient},
		{"EHLO", "421 later", loops.Transient},
		{"AUTH", "535 wrong password", loops.Permanent},
		{"AUTH", "454 later", loops.Transient},
	} {
		t.Run(c.verb+" "+c.reply, func(t *testing.T) {
			server := &catcher{replies: map[string]string{c.verb: c.reply, "HELO": c.reply}}
			m := throughSMTP(t, "smtp://ann:s3cret@"+server.listen(t))
			_, err := m.Send(t.Context(), message(t, m, "k"))
			if f := wantFault(t, err, c.kind); strings.Contains(f.Error(), "s3cret") {
				t.Errorf("the message shows the password: %v", f)
			}
			if len(server.mails) != 0 {
				t.Error("a mail arrived")
			}
		})
	}
}

func TestSMTPDeliveredIsDeliveredWhateverFollows(t *testing.T) {
	for _, verb := range []string{"RSET", "QUIT"} {
		c := &catcher{replies: map[string]string{verb: "drop"}}
		m := throughSMTP(t, "smtp://"+c.listen(t))
		if _, err := m.Send(t.Context(), message(t, m, "k")); err != nil {
			t.Errorf("a broken %s after the delivery: %v", verb, err)
		}
		if len(c.mails) != 1 {
			t.Errorf("%d mails, want 1", len(c.mails))
		}
	}
}

func TestSMTPThatIsNotThere(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	m := throughSMTP(t, "smtp://"+listener.Addr().String())
	_, err = m.Send(t.Context(), message(t, m, "k"))
	wantFault(t, err, loops.Transient, "SMTP_URL", listener.Addr().String())
}

func TestResendComesFirst(t *testing.T) {
	c := ready()
	c.SMTPURL = "smtp://localhost:1025"
	if _, ok := newMailer(t, c).provider.(*resendProvider); !ok {
		t.Error("SMTP sends although there is a key for Resend")
	}
}

func TestSMTPAddresses(t *testing.T) {
	var got []string
	for _, address := range []string{"smtp://mail.acme.com", "smtps://mail.acme.com", "smtp://localhost:1025", "smtp://[::1]:25", "smtp://ann:p@mail.acme.com"} {
		p, err := newSMTP(address, defaultTimeout)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, p.server+" "+p.client.TLSPolicy())
	}
	want := []string{"mail.acme.com:587 TLSOpportunistic", "mail.acme.com:465 TLSMandatory", "localhost:1025 TLSOpportunistic", "[::1]:25 TLSOpportunistic", "mail.acme.com:587 TLSMandatory"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
