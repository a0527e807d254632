package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// wall is the limit of the free tier in skene.config.ts.
const wall = 100

// customer is one user of the application, who clicks at a pace. One goroutine owns it.
type customer struct {
	id     string
	pace   *time.Ticker
	saas   string
	client *http.Client

	served, refused int
	slipped         int           // calls served between a commit and the flag that it closed
	closed          time.Duration // from the commit to the closed flag; zero: it never closed
}

func (c *customer) calls() int { return c.served + c.refused }

// call uses the feature once. A nil refusal: it was served.
func (c *customer) call(ctx context.Context) (*refusal, error) {
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-c.pace.C:
	}
	page, err := c.do(ctx, http.MethodPost, c.saas+"/api/features/report")
	if err != nil {
		return nil, err
	}
	switch page.status {
	case http.StatusOK:
		c.served++
		return nil, nil
	case http.StatusPaymentRequired:
		c.refused++
		no := &refusal{}
		return no, json.Unmarshal(page.body, no)
	default:
		return nil, fmt.Errorf("%s: call %d got %d: %s", c.id, c.calls()+1, page.status, page.body)
	}
}

// use makes n calls, all of which must be served.
func (c *customer) use(ctx context.Context, n int) error {
	for range n {
		no, err := c.call(ctx)
		if err != nil {
			return err
		}
		if no != nil {
			return fmt.Errorf("%s was refused at call %d: %s (%d used)", c.id, c.calls(), no.Message, no.Used)
		}
	}
	return nil
}

// untilRefused calls until the first 402.
func (c *customer) untilRefused(ctx context.Context) (*refusal, error) {
	for {
		no, err := c.call(ctx)
		if no != nil || err != nil {
			return no, err
		}
	}
}

// stayOut makes n calls, all of which must be refused.
func (c *customer) stayOut(ctx context.Context, n int) error {
	for range n {
		no, err := c.call(ctx)
		if err != nil {
			return err
		}
		if no == nil {
			return fmt.Errorf("%s is out, but call %d was served", c.id, c.calls())
		}
	}
	return nil
}

// untilServed calls until the first 200.
func (c *customer) untilServed(ctx context.Context) error {
	for {
		no, err := c.call(ctx)
		if no == nil || err != nil {
			return err
		}
	}
}

// pay follows the link of a prompt to Stripe's page and presses the button there.
func (c *customer) pay(ctx context.Context, mailHTML string) error {
	link := regexp.MustCompile(`href="([^"]+)"`).FindStringSubmatch(mailHTML)
	if link == nil {
		return fmt.Errorf("%s finds no link in the mail: %s", c.id, mailHTML)
	}
	page, err := c.open(ctx, http.MethodGet, html.UnescapeString(link[1]))
	if err != nil {
		return err
	}
	_, err = c.open(ctx, http.MethodPost, page)
	return err
}

// open asks for a page, follows redirects and returns where they led.
func (c *customer) open(ctx context.Context, method, url string) (at string, err error) {
	page, err := c.do(ctx, method, url)
	if err == nil && page.status != http.StatusOK {
		err = fmt.Errorf("%s: %s %s answers %d: %s", c.id, method, url, page.status, page.body)
	}
	return page.url, err
}

// page is an answer of a web server.
type page struct {
	url    string
	status int
	body   []byte
}

// do makes a request as the signed-in user.
func (c *customer) do(ctx context.Context, method, url string) (page, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return page{}, err
	}
	r.Header.Set("Authorization", "Bearer "+c.id)
	response, err := c.client.Do(r)
	if err != nil {
		return page{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return page{response.Request.URL.String(), response.StatusCode, body}, err
}

// meter measures how long after a commit of the application the flag of a user turns, by reading the
// flag as the application does.
type meter struct {
	ctx   context.Context // ends the readers
	pool  *pgxpool.Pool
	total atomic.Int64 // usage rows committed

	mu    sync.Mutex
	uses  map[string]int
	flips map[string]chan flip
}

// flip is one turn of a flag.
type flip struct {
	committed time.Time
	took      time.Duration
	err       error
}

func newMeter(ctx context.Context, pool *pgxpool.Pool) *meter {
	return &meter{ctx: ctx, pool: pool, uses: map[string]int{}, flips: map[string]chan flip{}}
}

// expect announces that a user's flag will turn: at the call that reaches the limit, or when the
// subscription changes. The flip arrives on the channel.
func (m *meter) expect(user string) <-chan flip {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.flips[user] = make(chan flip, 1)
	return m.flips[user]
}

// used is told of every commit of a usage row.
func (m *meter) used(user string) {
	m.total.Add(1)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.uses[user]++
	if m.uses[user] == wall {
		m.watch(user, false)
	}
}

// subscribed is told of every commit of a subscriptions row.
func (m *meter) subscribed(user string, pays bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watch(user, pays)
}

// watch reads an expected flag until it is as wanted. The caller holds m.mu.
func (m *meter) watch(user string, want bool) {
	committed, flips := time.Now(), m.flips[user]
	if flips == nil {
		return
	}
	delete(m.flips, user)
	go func() {
		err := await(m.ctx, "the flag of "+user, func() (bool, error) {
			var allowed bool
			err := m.pool.QueryRow(m.ctx, `SELECT allowed FROM feature_access WHERE subject_id = $1 AND feature = 'features'`, user).Scan(&allowed)
			return err == nil && allowed == want, err
		})
		flips <- flip{committed, time.Since(committed), err}
	}()
}
