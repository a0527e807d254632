package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/tiergate/tiergate/internal/loops"
	"github.com/tiergate/tiergate/internal/spell"
)

// sidecarFile is the name of the wiring file in the working directory.
const sidecarFile = "sidecar.yaml"

// value is what one source says about one setting.
type value struct {
	items []string // one for a scalar, "key=value" for the entries of a mapping
	from  string   // "sidecar.yaml:3:5: grace", "TIERGATE_GRACE in .env.local"
}

// sidecarReader flattens sidecar.yaml into values by dotted name.
type sidecarReader struct {
	known    map[string]setting
	env      environment
	values   map[string]value
	problems []error
}

// read parses the file; a file that is not there says nothing.
func (r *sidecarReader) read(dir string) {
	text, err := os.ReadFile(filepath.Join(dir, sidecarFile))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		r.problems = append(r.problems, &loops.Fault{Step: "read " + sidecarFile, Err: err})
		return
	}
	file, err := parser.ParseBytes(text, 0)
	var syntax yaml.Error
	switch {
	case errors.As(err, &syntax):
		r.fail(syntax.GetToken(), "", "", "%s", syntax.GetMessage())
		return
	case err != nil:
		r.problems = append(r.problems, &loops.Fault{Step: "read " + sidecarFile, Err: errors.New("it is not YAML")})
		return
	}
	for i, doc := range file.Docs {
		switch {
		case doc.Body == nil:
		case i > 0:
			r.fail(doc.Body.GetToken(), "", "", "a second document: the file holds one")
		default:
			r.walk("", doc.Body)
		}
	}
}

// walk stores the settings below one node; name is empty for the document itself.
func (r *sidecarReader) walk(name string, node ast.Node) {
	s, isSetting := r.known[name]
	switch n := node.(type) {
	case *ast.CommentGroupNode:
	case *ast.MappingNode:
		switch {
		case s.shape == pairs:
			r.pairs(s, n)
		case name != "" && !r.isGroup(name):
			r.fail(n.GetToken(), name, "", "is one value, not a mapping")
		default:
			for _, entry := range n.Values {
				r.entry(name, entry)
			}
		}
	case *ast.MappingValueNode: // a mapping with one key
		r.walk(name, ast.Mapping(n.Start, false, n))
	case *ast.SequenceNode:
		if s.shape != list {
			r.fail(n.GetToken(), name, "", "is not a list")
			return
		}
		r.sequence(s, n)
	default:
		if !isSetting {
			r.fail(node.GetToken(), name, "", "expects a mapping")
			return
		}
		if text, ok := r.scalar(name, node); ok {
			r.store(s, node.GetToken(), s.parts(text)...)
		}
	}
}

// entry checks a key and walks its value.
func (r *sidecarReader) entry(group string, entry *ast.MappingValueNode) {
	name := entry.Key.GetToken().Value
	if group != "" {
		name = group + "." + name
	}
	if _, ok := r.known[name]; ok || r.isGroup(name) {
		r.walk(name, entry.Value)
		return
	}
	if isLater(name) {
		r.fail(entry.Key.GetToken(), name, "remove it", "not supported in this version")
		return
	}
	var names []string
	for known := range r.known {
		names = append(names, known)
	}
	r.fail(entry.Key.GetToken(), name, meant(spell.Closest(name, names)), "unknown setting")
}

func (r *sidecarReader) pairs(s setting, n *ast.MappingNode) {
	var items []string
	for _, entry := range n.Values {
		key := entry.Key.GetToken().Value
		if text, ok := r.scalar(s.name+"."+key, entry.Value); ok {
			items = append(items, key+"="+text)
		}
	}
	r.store(s, n.GetToken(), items...)
}

func (r *sidecarReader) sequence(s setting, n *ast.SequenceNode) {
	var items []string
	for _, item := range n.Values {
		if text, ok := r.scalar(s.name, item); ok {
			items = append(items, text)
		}
	}
	r.store(s, n.GetToken(), items...)
}

// scalar returns a node's text with its ${NAME} references replaced.
func (r *sidecarReader) scalar(name string, node ast.Node) (string, bool) {
	var text string
	switch n := node.(type) {
	case *ast.StringNode:
		text = n.Value
	case *ast.LiteralNode:
		text = n.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode:
		text = node.GetToken().Value
	default:
		r.fail(node.GetToken(), name, "", "has no value that can be read")
		return "", false
	}
	if r.known[name].secret && !strings.Contains(text, "${") {
		r.fail(node.GetToken(), name, "write ${"+envName(name)+"} and set that in the environment or .env", "a secret does not belong in this file")
		return "", false
	}
	return r.expand(node.GetToken(), name, text)
}

func (r *sidecarReader) expand(at *token.Token, name, text string) (string, bool) {
	ok := true
	expanded := regexp.MustCompile(`\$\{([^}]*)\}?`).ReplaceAllStringFunc(text, func(ref string) string {
		variable := strings.Trim(ref, "${}")
		if !regexp.MustCompile(`^\$\{[A-Za-z_][A-Za-z0-9_]*\}$`).MatchString(ref) {
			ok = false
			r.fail(at, name, "", "a reference is written ${NAME}")
			return ""
		}
		found, _, set := r.env.lookup(variable)
		if !set {
			ok = false
			r.fail(at, name, "set "+variable+" in the environment or .env", "%s is not set", ref)
		}
		return found
	})
	return expanded, ok
}

// store keeps a value under the setting's first name: tables.usage.table is tables.usage.
func (r *sidecarReader) store(s setting, at *token.Token, items ...string) {
	r.values[s.name] = value{items, fmt.Sprintf("%s: %s", position(at), s.name)}
}

func (r *sidecarReader) isGroup(name string) bool {
	for known := range r.known {
		if strings.HasPrefix(known, name+".") {
			return true
		}
	}
	return false
}

func (r *sidecarReader) fail(at *token.Token, name, hint, format string, args ...any) {
	step := position(at)
	if name != "" {
		step += ": " + name
	}
	r.problems = append(r.problems, &loops.Fault{Step: step, Err: fmt.Errorf(format, args...), Hint: hint})
}

func position(at *token.Token) string {
	if at == nil || at.Position == nil {
		return sidecarFile
	}
	return fmt.Sprintf("%s:%d:%d", sidecarFile, at.Position.Line, at.Position.Column)
}
