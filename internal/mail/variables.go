package mail

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	text "text/template"
	"text/template/parse"

	"github.com/tiergate/tiergate/internal/loops"
	"github.com/tiergate/tiergate/internal/spell"
)

// variables returns the names a template may use: the fields of loops.PromptData.
func variables() []string {
	var names []string
	for field := range reflect.TypeFor[loops.PromptData]().Fields() {
		names = append(names, field.Name)
	}
	return names
}

func variablesHint() string { return "the variables are ." + strings.Join(variables(), ", .") }

// unknownVariables returns one line, "file:line:column: .Nam …", for every variable of a file that a
// prompt does not have, in branches that no sample takes too.
func unknownVariables(file *text.Template) []string {
	w := walker{file: file, seen: map[string]bool{}}
	for _, name := range []string{subjectBlock, file.Name()} {
		w.template(name)
	}
	return w.problems
}

// walker looks at every variable of a template that stands for the prompt: not at those behind the
// dot of a with or range, or of a block called with something else.
type walker struct {
	file     *text.Template
	tree     *parse.Tree
	seen     map[string]bool
	problems []string
}

func (w *walker) template(name string) {
	t := w.file.Lookup(name)
	if t == nil || t.Tree == nil || w.seen[name] {
		return
	}
	w.seen[name] = true
	outer := w.tree
	w.tree = t.Tree
	w.node(t.Root, true)
	w.tree = outer
}

// node visits one node; prompt says whether the dot is the prompt there.
func (w *walker) node(n parse.Node, prompt bool) {
	switch n := n.(type) {
	case *parse.ListNode:
		for _, child := range list(n) {
			w.node(child, prompt)
		}
	case *parse.ActionNode:
		w.node(n.Pipe, prompt)
	case *parse.IfNode:
		w.branch(&n.BranchNode, prompt, prompt)
	case *parse.WithNode:
		w.branch(&n.BranchNode, prompt, false)
	case *parse.RangeNode:
		w.branch(&n.BranchNode, prompt, false)
	case *parse.TemplateNode:
		if n.Pipe == nil {
			return
		}
		w.node(n.Pipe, prompt)
		if dot := n.Pipe.String(); dot == "$" || dot == "." && prompt {
			w.template(n.Name)
		}
	case *parse.PipeNode:
		for _, command := range n.Cmds {
			for _, arg := range command.Args {
				w.node(arg, prompt)
			}
		}
	case *parse.ChainNode:
		w.node(n.Node, prompt)
	case *parse.FieldNode:
		if prompt {
			w.variable(n, n.Ident[0])
		}
	case *parse.VariableNode:
		if n.Ident[0] == "$" && len(n.Ident) > 1 {
			w.variable(n, n.Ident[1])
		}
	}
}

func (w *walker) branch(b *parse.BranchNode, prompt, inside bool) {
	w.node(b.Pipe, prompt)
	w.node(b.List, inside)
	w.node(b.ElseList, prompt)
}

func (w *walker) variable(n parse.Node, name string) {
	if slices.Contains(variables(), name) {
		return
	}
	at, _ := w.tree.ErrorContext(n)
	problem := fmt.Sprintf("%s: there is no .%s", at, name)
	if near := spell.Closest(name, variables()); near != "" {
		problem += fmt.Sprintf("; did you mean .%s?", near)
	}
	w.problems = append(w.problems, problem)
}

// list returns the children of a branch that may not be there.
func list(n *parse.ListNode) []parse.Node {
	if n == nil {
		return nil
	}
	return n.Nodes
}
