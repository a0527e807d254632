package config

import (
	"errors"
	"fmt"
	"math"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// yamlReader turns the documents of one file into trees.
type yamlReader struct {
	file    *nodeSource
	anchors map[string]ast.Node
	nodes   int
}

// yamlProblem stops the reading of a file, as a syntax error does.
type yamlProblem struct {
	at   nodePos
	text string
}

func (p *yamlProblem) Error() string { return p.text }

// yamlNodes returns the loops of every document: one tree for a mapping, several for a sequence.
func yamlNodes(file *nodeSource) ([]*node, []LoopsProblem) {
	r := &yamlReader{file: file, anchors: map[string]ast.Node{}}
	parsed, err := parser.ParseBytes([]byte(file.text), 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, []LoopsProblem{r.syntax(err)}
	}
	var nodes []*node
	for _, doc := range parsed.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType || doc.Body.Type() == ast.NullType {
			continue
		}
		n, err := r.node(doc.Body)
		if err != nil {
			return nil, []LoopsProblem{r.syntax(err)}
		}
		if n.kind == nodeList {
			nodes = append(nodes, n.items...)
		} else {
			nodes = append(nodes, n)
		}
	}
	return nodes, nil
}

func (r *yamlReader) syntax(err error) LoopsProblem {
	var own *yamlProblem
	if errors.As(err, &own) {
		return newLoopsProblem(own.at, "", "%s", own.text)
	}
	var theirs yaml.Error
	if errors.As(err, &theirs) {
		return newLoopsProblem(r.position(theirs.GetToken()), "", "%s", theirs.GetMessage())
	}
	return newLoopsProblem(r.file.start(), "", "%v", err)
}

func (r *yamlReader) position(t *token.Token) nodePos {
	if t == nil || t.Position == nil {
		return r.file.start()
	}
	return nodePos{r.file, max(1, t.Position.Line), max(1, t.Position.Column)}
}

func (r *yamlReader) fail(n ast.Node, format string, args ...any) error {
	return &yamlProblem{at: r.position(n.GetToken()), text: fmt.Sprintf(format, args...)}
}

func (r *yamlReader) node(n ast.Node) (*node, error) {
	if r.nodes++; r.nodes > maxNodes {
		return nil, r.fail(n, "the file holds more than %d values", maxNodes)
	}
	at := r.position(n.GetToken())
	switch n := n.(type) {
	case *ast.NullNode:
		return &node{kind: nodeNull, at: at}, nil
	case *ast.BoolNode:
		return &node{kind: nodeBool, at: at, text: fmt.Sprint(n.Value)}, nil
	case *ast.IntegerNode:
		return r.integer(n, at)
	case *ast.FloatNode:
		return &node{kind: nodeNumber, at: at, number: n.Value}, nil
	case *ast.InfinityNode:
		return &node{kind: nodeNumber, at: at, number: n.Value}, nil
	case *ast.NanNode:
		return &node{kind: nodeNumber, at: at, number: math.NaN()}, nil
	case *ast.StringNode:
		return &node{kind: nodeText, at: at, text: n.Value, plain: n.Token.Type == token.StringType}, nil
	case *ast.LiteralNode:
		return &node{kind: nodeText, at: at, text: n.Value.Value}, nil
	case *ast.SequenceNode:
		return r.sequence(n, at)
	case ast.MapNode:
		return r.mapping(n)
	case *ast.AnchorNode:
		value, err := r.node(n.Value)
		r.anchors[n.Name.GetToken().Value] = n.Value
		return value, err
	case *ast.AliasNode:
		return r.alias(n)
	default:
		return nil, r.fail(n, "a loop has no use for this (%s)", n.Type())
	}
}

func (r *yamlReader) integer(n *ast.IntegerNode, at nodePos) (*node, error) {
	switch value := n.Value.(type) {
	case int64:
		return &node{kind: nodeNumber, at: at, number: float64(value)}, nil
	case uint64:
		return &node{kind: nodeNumber, at: at, number: float64(value)}, nil
	default:
		return nil, r.fail(n, "this number cannot be read")
	}
}

func (r *yamlReader) sequence(n *ast.SequenceNode, at nodePos) (*node, error) {
	list := &node{kind: nodeList, at: at}
	for _, v := range n.Values {
		item, err := r.node(v)
		if err != nil {
			return nil, err
		}
		list.items = append(list.items, item)
	}
	return list, nil
}

// mapping reads keys in order; what a merge (<<) brings gives way to keys of the mapping's own.
func (r *yamlReader) mapping(n ast.MapNode) (*node, error) {
	mapping := &node{kind: nodeMap}
	var merged []nodeEntry
	for entries := n.MapRange(); entries.Next(); {
		key := entries.Key()
		at := r.position(key.GetToken())
		if mapping.at.file == nil {
			mapping.at = at
		}
		value, err := r.node(entries.Value())
		if err != nil {
			return nil, err
		}
		switch key.(type) {
		case *ast.MergeKeyNode:
			merged = append(merged, value.entries...)
		case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
			mapping.entries = append(mapping.entries, nodeEntry{key: key.GetToken().Value, at: at, value: value})
		default:
			return nil, r.fail(key, "a key is a plain word")
		}
	}
	for _, e := range merged {
		if mapping.get(e.key) == nil {
			mapping.entries = append(mapping.entries, e)
		}
	}
	if mapping.at.file == nil {
		mapping.at = r.position(n.(ast.Node).GetToken())
	}
	return mapping, nil
}

func (r *yamlReader) alias(n *ast.AliasNode) (*node, error) {
	name := n.Value.GetToken().Value
	target, ok := r.anchors[name]
	if !ok {
		return nil, r.fail(n, "nothing before this is called &%s", name)
	}
	return r.node(target)
}
