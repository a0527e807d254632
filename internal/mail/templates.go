package mail

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	html "html/template"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	text "text/template"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
	"github.com/tiergate/tiergate/internal/spell"
)

//go:embed templates
var builtin embed.FS

// subjectBlock is the template that a .txt file defines for the subject line.
const subjectBlock = "subject"

// Templates are the emails a prompt can name: the built-in ones, each file of which a folder may
// replace, and the folder's own. NAME.html is html/template; NAME.txt is text/template and begins with
// {{define "subject"}}…{{end}}. Both use the fields of loops.PromptData, and five functions:
//
//	{{date .ResetsAt}}           31 March 2026, 09:59 UTC; empty where there is none
//	{{number .Limit}}            12,000
//	{{left .Used .Limit}}        what remains of the limit, never below 0
//	{{percent .Used .Limit}}     0 to 100
//	{{words .Feature}}           pdf_exports as "pdf exports"
type Templates struct {
	dir    string
	html   map[string]*html.Template // by template
	source map[string]*text.Template // by file: "upgrade_prompt.txt" is executed, the .html ones are here for Check
}

// Load reads the built-in templates and then those of dir, file by file: dir/upgrade_prompt.html
// replaces the built-in HTML and leaves the text as it is. An empty dir means the built-in ones.
// It fails with a Permanent Fault on a folder or file that cannot be read or parsed.
func Load(dir string) (*Templates, error) {
	t := &Templates{dir: dir, html: map[string]*html.Template{}, source: map[string]*text.Template{}}
	if err := t.read(builtin, "templates", "built-in"); err != nil {
		return nil, err
	}
	if dir == "" {
		return t, nil
	}
	if err := t.read(os.DirFS(dir), ".", dir); err != nil {
		return nil, err
	}
	return t, nil
}

// read parses every .html and .txt file of a folder, which messages call by the name of shown.
func (t *Templates) read(files fs.FS, folder, shown string) error {
	const step = "load the email templates"
	entries, err := fs.ReadDir(files, folder)
	if err != nil {
		return fault(step, err, "make "+shown+" a folder that the sidecar may read, or leave the setting out to use the built-in templates")
	}
	for _, entry := range entries {
		if ext := path.Ext(entry.Name()); entry.IsDir() || ext != ".html" && ext != ".txt" {
			continue
		}
		source, err := fs.ReadFile(files, path.Join(folder, entry.Name()))
		if err != nil {
			return fault(step, err, "let the sidecar read "+filepath.Join(shown, entry.Name()))
		}
		if err := t.parse(entry.Name(), filepath.Join(shown, entry.Name()), string(source)); err != nil {
			return fault(step, err, "mend that line; beside Go's own template functions there are "+strings.Join(functionNames(), ", "))
		}
	}
	return nil
}

// parse compiles one file under its path, so that every later error names file and line.
func (t *Templates) parse(file, shown, source string) (err error) {
	t.source[file], err = text.New(shown).Option("missingkey=error").Funcs(functions()).Parse(source)
	if name, ok := strings.CutSuffix(file, ".html"); ok && err == nil {
		t.html[name], err = html.New(shown).Option("missingkey=error").Funcs(functions()).Parse(source)
	}
	return err
}

// Check reports whether a template can be sent: both files are there, the text one defines a
// subject, and they use only fields of loops.PromptData. It looks at every branch, not only at those
// that a sample takes, then fills the template with a full and with a sparse sample. It fails with a
// Permanent Fault that names file, line and the variables there are.
func (t *Templates) Check(name string) error {
	step := fmt.Sprintf("check the email template %q", name)
	if err := t.complete(name); err != nil {
		return fault(step, err, t.completeHint(name))
	}
	rich, plain := t.source[name+".html"], t.source[name+".txt"]
	if problems := append(unknownVariables(rich), unknownVariables(plain)...); len(problems) > 0 {
		return fault(step, errors.New(strings.Join(problems, "\n")), variablesHint())
	}
	for _, sample := range samples() {
		m, err := t.fill(name, sample)
		if err != nil {
			return fault(step, err, variablesHint())
		}
		if m.Subject == "" {
			return fault(step, fmt.Errorf("%s makes an empty subject", plain.Name()), "give every branch of the subject some words")
		}
	}
	return nil
}

// Names returns the templates that have all their parts, sorted.
func (t *Templates) Names() []string {
	var names []string
	for name := range t.html {
		if t.complete(name) == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// complete says which part of a template is missing.
func (t *Templates) complete(name string) error {
	rich, plain := t.source[name+".html"], t.source[name+".txt"]
	switch {
	case rich == nil && plain == nil:
		return errors.New("there is no such template")
	case rich == nil:
		return fmt.Errorf("%s has no twin %s.html", plain.Name(), name)
	case plain == nil:
		return fmt.Errorf("%s has no twin %s.txt", rich.Name(), name)
	case plain.Lookup(subjectBlock) == nil:
		return fmt.Errorf(`%s has no {{define "subject"}}`, plain.Name())
	}
	return nil
}

func (t *Templates) completeHint(name string) string {
	folder := t.dir
	if folder == "" {
		folder = "a templates folder"
	}
	hint := fmt.Sprintf(`put %s.html and %s.txt, which begins with {{define "subject"}}…{{end}}, into %s; complete are %s`,
		name, name, folder, strings.Join(t.Names(), ", "))
	if near := spell.Closest(name, t.Names()); near != "" {
		hint = fmt.Sprintf("did you mean %q? Otherwise %s", near, hint)
	}
	return hint
}

// fill executes a template: the subject comes out as one line, whatever the template or the data hold.
func (t *Templates) fill(name string, data loops.PromptData) (m loops.Message, err error) {
	if err := t.complete(name); err != nil {
		return m, err
	}
	data = cleaned(data)
	var subject, plain, rich bytes.Buffer
	err = errors.Join(
		t.source[name+".txt"].ExecuteTemplate(&subject, subjectBlock, data),
		t.source[name+".txt"].Execute(&plain, data),
		t.html[name].Execute(&rich, data),
	)
	m.Subject, m.Text, m.HTML = oneLine(subject.String()), strings.TrimSpace(plain.String())+"\n", rich.String()
	return m, err
}

// samples are a prompt with everything and one with as little as a real one can have.
func samples() []loops.PromptData {
	sparse := loops.PromptData{Email: "ann@example.com", Subject: "user_1", Feature: "features", Tier: loops.DefaultTier, UpgradeURL: "https://example.com/upgrade"}
	full := sparse
	full.Name, full.Used, full.Limit, full.Message = "Ann", 100, 100, "You've reached your free tier limit."
	full.ResetsAt = time.Date(2026, 3, 31, 9, 59, 0, 0, time.UTC)
	return []loops.PromptData{full, sparse}
}
