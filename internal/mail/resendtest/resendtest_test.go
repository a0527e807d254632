package resendtest

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

const email = `{"from":"a@b.c","to":["d@e.f"],"subject":"S <b>","html":"<p>hi</p>","tags":[{"name":"n","value":"v"}]}`

func post(t *testing.T, url, apiKey, key, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/emails", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if apiKey != "" {
		r.Header.Set("Authorization", "Bearer "+apiKey)
	}
	r.Header.Set("Idempotency-Key", key)
	return do(t, r)
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return do(t, r)
}

func do(t *testing.T, r *http.Request) (int, string) {
	t.Helper()
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

func TestWhatIsRefused(t *testing.T) {
	server := httptest.NewServer(New("re_good", 0))
	defer server.Close()
	for _, c := range []struct {
		apiKey, body string
		status       int
		name         string
	}{
		{"", email, 401, "missing_api_key"},
		{"re_bad", email, 403, "invalid_api_key"},
		{"re_good", "{", 400, "validation_error"},
		{"re_good", `{"from":"a@b.c"}`, 422, "Missing `to` field."},
		{"re_good", strings.Replace(email, `"v"`, `"v w"`, 1), 422, "Tags should only contain"},
		{"re_good", email, 200, `"id":"mail_1"`},
	} {
		if status, body := post(t, server.URL, c.apiKey, "", c.body); status != c.status || !strings.Contains(body, c.name) {
			t.Errorf("%q %s: got %d %s, want %d %s", c.apiKey, c.body, status, body, c.status, c.name)
		}
	}
	if status, _ := get(t, server.URL+"/domains"); status != http.StatusNotFound {
		t.Errorf("another endpoint answers %d", status)
	}
}

func TestOneKeyIsOneMailHoweverManyAsk(t *testing.T) {
	s := New("", 0)
	server := httptest.NewServer(s)
	defer server.Close()
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() { post(t, server.URL, "re_any", "k", email) })
	}
	wait.Wait()
	if n := len(s.Inbox()); n != 1 || s.Requests() != 20 {
		t.Errorf("%d mails of %d requests, want 1 of 20", n, s.Requests())
	}
}

func TestTheInboxIsReadable(t *testing.T) {
	s := New("", 0)
	server := httptest.NewServer(s)
	defer server.Close()
	if _, page := get(t, server.URL+"/inbox"); page != "[]\n" {
		t.Errorf("an empty inbox is %q", page)
	}
	post(t, server.URL, "re_any", "k", email)
	var mails []Mail
	_, page := get(t, server.URL+"/inbox")
	if err := json.Unmarshal([]byte(page), &mails); err != nil || len(mails) != 1 || mails[0].Key != "k" || mails[0].To[0] != "d@e.f" {
		t.Errorf("got %v, %v", mails, err)
	}
	if _, page := get(t, server.URL); !strings.Contains(page, "S &lt;b&gt;") || !strings.Contains(page, `src="/inbox/mail_1"`) {
		t.Errorf("the page is %s", page)
	}
	if status, page := get(t, server.URL+"/inbox/mail_1"); status != http.StatusOK || page != "<p>hi</p>" {
		t.Errorf("the mail is %d %s", status, page)
	}
	if status, _ := get(t, server.URL+"/inbox/mail_2"); status != http.StatusNotFound {
		t.Errorf("a mail that is not there answers %d", status)
	}
}
