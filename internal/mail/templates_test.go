package mail

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tiergate/tiergate/internal/loops"
)

// folder writes a templates folder.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func load(t *testing.T, dir string) *Templates {
	t.Helper()
	templates, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return templates
}

func fill(t *testing.T, templates *Templates, name string, data loops.PromptData) loops.Message {
	t.Helper()
	m, err := templates.fill(name, data)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestBuiltinTemplates(t *testing.T) {
	templates := load(t, "")
	if names := templates.Names(); !slices.Equal(names, []string{"upgrade_prompt", "usage_warning"}) {
		t.Errorf("names %q", names)
	}
	for _, name := range templates.Names() {
		if err := templates.Check(name); err != nil {
			t.Error(err)
		}
	}
}

func TestTheUpgradePromptReads(t *testing.T) {
	got := fill(t, load(t, ""), "upgrade_prompt", samples()[0])
	if want := "You've reached your free limit of 100 for features"; got.Subject != want {
		t.Errorf("subject %q, want %q", got.Subject, want)
	}
	want := `Hi Ann,

You've reached your free tier limit.

features: 100 of 100 used

Your free plan includes 100 uses of features. The count starts over on 31 March 2026, 09:59 UTC. Rather not wait? Upgrading opens it again right away.

Upgrade to keep going:
https://example.com/upgrade

--
You get this email because your account (ann@example.com) reached a limit of its free plan. We send it once each time that happens.
`
	if diff := cmp.Diff(want, got.Text); diff != "" {
		t.Error(diff)
	}
}

func TestTheTwinsSayTheSame(t *testing.T) {
	templates := load(t, "")
	for _, name := range templates.Names() {
		for _, data := range samples() {
			for _, limit := range []int64{0, 1, 1000} {
				data.Limit, data.Used = limit, limit
				m := fill(t, templates, name, data)
				words := []string{data.UpgradeURL, data.Email, words(data.Feature)}
				if limit > 0 {
					words = append(words, number(limit)+" used")
				}
				if !data.ResetsAt.IsZero() && (limit > 0 || name == "usage_warning") {
					words = append(words, "31 March 2026, 09:59 UTC")
				}
				flat := regexp.MustCompile(`<[^>]*>`).ReplaceAllString(m.HTML, "")
				for _, word := range words {
					if !strings.Contains(flat, word) || !strings.Contains(m.Text, word) {
						t.Errorf("%s with limit %d: %q is not in both bodies", name, limit, word)
					}
				}
				for part, text := range map[string]string{"subject": m.Subject, "text": m.Text, "HTML": m.HTML} {
					if strings.Contains(text, "  ") || strings.Contains(text, "ZgotmplZ") || strings.Contains(text, "0001") {
						t.Errorf("%s with limit %d: %s has a double space, a filtered or an empty value:\n%s", name, limit, part, text)
					}
				}
			}
		}
	}
}

func TestTheBarShowsWhatIsUsed(t *testing.T) {
	templates := load(t, "")
	for used, width := range map[int64]string{0: "", 1: `width="1%"`, 80: `width="80%"`, 100: `width="100%"`, 250: `width="100%"`} {
		data := samples()[0]
		data.Used = used
		html := fill(t, templates, "usage_warning", data).HTML
		if width == "" && strings.Contains(html, `class="fill"`) || !strings.Contains(html, width) {
			t.Errorf("%d of 100 is not %s", used, width)
		}
	}
}

func TestAFolderReplacesFileByFile(t *testing.T) {
	templates := load(t, folder(t, map[string]string{
		"upgrade_prompt.html": "<p>Own {{.Name}}</p>",
		"welcome.txt":         `{{define "subject"}}Hello {{.Name}}{{end}}Welcome`,
		"welcome.html":        `<p>{{template "to" .}}</p>{{define "to"}}{{.Name}}{{end}}`,
		"notes.md":            "{{ not a template",
	}))
	if names := templates.Names(); !slices.Equal(names, []string{"upgrade_prompt", "usage_warning", "welcome"}) {
		t.Errorf("names %q", names)
	}
	for _, name := range templates.Names() {
		if err := templates.Check(name); err != nil {
			t.Error(err)
		}
	}
	m := fill(t, templates, "upgrade_prompt", samples()[0])
	if m.HTML != "<p>Own Ann</p>" || !strings.Contains(m.Text, "features: 100 of 100 used") {
		t.Errorf("HTML %q, text %q", m.HTML, m.Text)
	}
}

func TestCheckNamesTheMistake(t *testing.T) {
	subject := `{{define "subject"}}S{{end}}`
	for _, c := range []struct {
		name  string
		files map[string]string
		words []string
	}{
		{"no template", nil, []string{"there is no such template", "usage_warning"}},
		{"no HTML", map[string]string{"x.txt": subject}, []string{"x.txt has no twin x.html"}},
		{"no text", map[string]string{"x.html": "hi"}, []string{"x.html has no twin x.txt"}},
		{"no subject", map[string]string{"x.html": "hi", "x.txt": "hi"}, []string{`x.txt has no {{define "subject"}}`}},
		{"empty subject", map[string]string{"x.html": "hi", "x.txt": `{{define "subject"}}{{.Name}}{{end}}`}, []string{"empty subject"}},
		{"variable", map[string]string{"x.html": "<p>\n{{.Usd}}</p>", "x.txt": subject}, []string{"x.html:2:2: there is no .Usd; did you mean .Used?", ".UpgradeURL"}},
		{"its case", map[string]string{"x.html": "hi", "x.txt": subject + "{{.name}}"}, []string{"x.txt:1", "did you mean .Name?"}},
		{"in the subject", map[string]string{"x.html": "hi", "x.txt": `{{define "subject"}}{{.Plan}}{{end}}`}, []string{"x.txt:1", "there is no .Plan"}},
		{"in a branch nobody takes", map[string]string{"x.html": `{{if eq .Tier "gold"}}{{with .Name}}{{$.Nam}}{{end}}{{end}}`, "x.txt": subject}, []string{"there is no .Nam"}},
		{"in another block", map[string]string{"x.html": `{{template "b" .}}{{define "b"}}{{.Nam}}{{end}}`, "x.txt": subject}, []string{"there is no .Nam"}},
		{"two", map[string]string{"x.html": `{{.Nam}}`, "x.txt": subject + "{{.Limt}}"}, []string{".Nam", ".Limt"}},
		{"of a variable", map[string]string{"x.html": `{{.Name.First}}`, "x.txt": subject}, []string{"x.html:1:7", "First"}},
		{"broken HTML", map[string]string{"x.html": `<a href="{{if .Name}}x"{{end}}>`, "x.txt": subject}, []string{"x.html"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			wantFault(t, load(t, folder(t, c.files)).Check("x"), loops.Permanent, c.words...)
		})
	}
	wantFault(t, load(t, "").Check("upgrade_promt"), loops.Permanent, `did you mean "upgrade_prompt"?`)
}

func TestCheckLetsTheDotMove(t *testing.T) {
	templates := load(t, folder(t, map[string]string{
		"x.txt":  `{{define "subject"}}S{{end}}{{with .ResetsAt}}{{.Year}}{{end}}{{.ResetsAt.Format "2006"}}{{with $n := .Name}}{{$n}}{{$.Email}}{{end}}`,
		"x.html": `{{template "year" .ResetsAt}}{{define "year"}}{{.Year}}{{end}}`,
	}))
	if err := templates.Check("x"); err != nil {
		t.Error(err)
	}
}

func TestLoadNamesAFileThatCannotBeParsed(t *testing.T) {
	for text, word := range map[string]string{"\n{{if}}": "x.html:2", "{{dat .ResetsAt}}": `"dat"`} {
		_, err := Load(folder(t, map[string]string{"x.html": text}))
		wantFault(t, err, loops.Permanent, word, "date")
	}
}

func TestWords(t *testing.T) {
	if got := number(-1234567) + " " + number(100) + " " + number(1000); got != "-1,234,567 100 1,000" {
		t.Error(got)
	}
	if got := words("pdf_exports-v2"); got != "pdf exports v2" {
		t.Error(got)
	}
	if got := date(time.Date(2026, 3, 31, 11, 59, 0, 0, time.FixedZone("", 7200))); got != "31 March 2026, 09:59 UTC" {
		t.Error(got)
	}
	if a, b := percent(99_999, 100_000), percent(5, 0); a != 99 || b != 100 {
		t.Error(a, b)
	}
}

func TestNamesThatAreNoNames(t *testing.T) {
	for name, want := range map[string]string{
		"Ann":                         "Ann",
		" Ann\r\nBcc: x\x00 ":         "Ann Bcc: x",
		"Win at https://evil.example": "",
		"WWW.evil.example":            "",
		"\u202eevil":                  "evil",
		"O'Neil <b>":                  "O'Neil <b>",
		"{{.Email}}":                  "{{.Email}}",
		"\xff":                        "\uFFFD",
		strings.Repeat("é", 200):      strings.Repeat("é", 60) + "…",
	} {
		if got := cleaned(loops.PromptData{Name: name}).Name; got != want {
			t.Errorf("%q greets %q, want %q", name, got, want)
		}
	}
}

// FuzzRender holds that no data changes the shape of an email: its tags, attributes, lines and headers
// are those of a harmless twin.
func FuzzRender(f *testing.F) {
	f.Add("Ann", "ann@example.com", "features", "free", "You've reached it.", int64(100), int64(100), int64(1774951140))
	f.Add(`"><script>alert(1)</script>`, "a@b.c", "x\r\nBcc: y@z", "{{.Email}}", "a\nb", int64(-1), int64(0), int64(0))
	f.Add("\u2028\x00\xff", `"a b"@c.d`, "</td>", "' onload='", "<!--", int64(1), int64(9223372036854775807), int64(1))
	m, err := New(ready())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name, email, feature, tier, message string, used, limit, resets int64) {
		harmless := loops.PromptData{Name: "n", Email: "a@b.c", Feature: "f", Tier: "t", Message: "m", Used: used, Limit: limit}
		if resets != 0 {
			harmless.ResetsAt = time.Unix(resets, 0)
		}
		data := harmless
		data.Name, data.Email, data.Feature, data.Tier, data.Message = name, email, feature, tier, message
		for _, template := range []string{"upgrade_prompt", "usage_warning"} {
			got, err := m.Render(template, data)
			if err != nil {
				wantFault(t, err, loops.Permanent)
				return
			}
			want, err := m.Render(template, harmless)
			if err != nil {
				t.Fatal(err)
			}
			if strings.ContainsAny(got.Subject+got.To, "\r\n\x00") || got.Subject == "" {
				t.Errorf("subject %q, to %q", got.Subject, got.To)
			}
			for _, mark := range []string{"<", ">", `"`} {
				if a, b := strings.Count(got.HTML, mark), strings.Count(want.HTML, mark); a != b {
					t.Errorf("%d %s in the HTML, want %d:\n%s", a, mark, b, got.HTML)
				}
			}
			if message == "" || strings.Contains(message, "\n") || strings.TrimSpace(message) == "" {
				continue
			}
			if a, b := strings.Count(got.Text, "\n"), strings.Count(want.Text, "\n"); a != b {
				t.Errorf("%d lines, want %d:\n%s", a, b, got.Text)
			}
		}
	})
}
