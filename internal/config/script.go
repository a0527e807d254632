package config

import (
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"reflect"
	"time"

	"github.com/dop251/goja"
	"github.com/dop251/goja/ast"
	"github.com/dop251/goja/file"
	"github.com/dop251/goja/parser"
	"github.com/go-sourcemap/sourcemap"
)

const (
	maxScriptTime  = 2 * time.Second
	maxScriptDepth = 1_000   // calls
	maxLiterals    = 100_000 // objects and lists made by one script

	// markName is the function that every object and list literal of a script is wrapped into: it
	// remembers which literal a value came from. That is how a wrong value is traced to its line,
	// whatever functions, variables and imports it went through.
	markName = "__literal"
)

// typeScriptModule is a bundled module on its way to a tree of nodes.
type typeScriptModule struct {
	entry     *nodeSource
	program   *ast.Program
	sourceMap *sourcemap.Consumer
	sources   map[string]*nodeSource

	vm       *goja.Runtime
	literals []ast.Expression
	origins  map[*goja.Object]ast.Expression
	nodes    int
}

func newTypeScriptModule(entry *nodeSource, code, sourceMap []byte) (*typeScriptModule, error) {
	program, err := parser.ParseFile(nil, entry.name, code, 0, parser.WithDisableSourceMaps)
	if err != nil {
		return nil, err
	}
	consumer, err := sourcemap.Parse("", sourceMap)
	if err != nil {
		consumer = &sourcemap.Consumer{} // of a module without code: there is nothing to trace
	}
	m := &typeScriptModule{entry: entry, program: program, sourceMap: consumer,
		sources: map[string]*nodeSource{}, vm: goja.New(), origins: map[*goja.Object]ast.Expression{}}
	m.mark(reflect.ValueOf(program), map[uintptr]bool{})
	return m, nil
}

// mark wraps every literal below v into a call of the marking function.
func (m *typeScriptModule) mark(v reflect.Value, seen map[uintptr]bool) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() || seen[v.Pointer()] || v.Type() == reflect.TypeFor[*file.File]() {
			return
		}
		seen[v.Pointer()] = true
		m.mark(v.Elem(), seen)
	case reflect.Interface:
		if v.IsNil() {
			return
		}
		m.mark(v.Elem(), seen)
		if v.Type() != reflect.TypeFor[ast.Expression]() {
			return
		}
		switch literal := v.Interface().(type) {
		case *ast.ObjectLiteral, *ast.ArrayLiteral:
			v.Set(reflect.ValueOf(m.marked(literal.(ast.Expression))))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			m.mark(v.Field(i), seen)
		}
	case reflect.Slice:
		for i := range v.Len() {
			m.mark(v.Index(i), seen)
		}
	}
}

func (m *typeScriptModule) marked(literal ast.Expression) ast.Expression {
	m.literals = append(m.literals, literal)
	id := &ast.NumberLiteral{Idx: literal.Idx0(), Value: int64(len(m.literals) - 1)}
	return &ast.CallExpression{
		Callee:       &ast.Identifier{Idx: literal.Idx0(), Name: markName},
		ArgumentList: []ast.Expression{id, literal},
	}
}

// run evaluates the module and returns its default export.
func (m *typeScriptModule) run(env map[string]string) (*node, *LoopsProblem) {
	program, err := goja.CompileAST(m.program, false)
	if err != nil {
		return nil, m.problem(typeScriptExport(m.entry), "", "this module cannot be run: %v", err)
	}
	m.vm.SetMaxCallStackSize(maxScriptDepth)
	timer := time.AfterFunc(maxScriptTime, func() {
		m.vm.Interrupt(fmt.Sprintf("the module did not finish within %v", maxScriptTime))
	})
	defer timer.Stop()

	if err := errors.Join(m.vm.Set(markName, m.remember), m.vm.Set("process", map[string]any{"env": env})); err != nil {
		return nil, m.failure(err)
	}
	if _, err := m.vm.RunProgram(program); err != nil {
		return nil, m.failure(err)
	}
	var root *node
	err = m.guard(func() { // properties may be getters: code of the script
		exports, ok := m.vm.Get(exportName).(*goja.Object)
		if !ok {
			return
		}
		if v := exports.Get("default"); v != nil && !goja.IsUndefined(v) {
			root = m.node(v, typeScriptExport(m.entry))
		}
	})
	if err != nil {
		return nil, m.failure(err)
	}
	if root == nil {
		return nil, m.problem(typeScriptExport(m.entry), noExportHint, "this file has no default export")
	}
	return root, nil
}

// guard runs code that may call into the script, and returns what the script throws.
func (m *typeScriptModule) guard(code func()) error {
	call, _ := goja.AssertFunction(m.vm.ToValue(func(goja.FunctionCall) goja.Value {
		code()
		return goja.Undefined()
	}))
	_, err := call(goja.Undefined())
	return err
}

// remember is the marking function: (literal's number, value) → value.
func (m *typeScriptModule) remember(call goja.FunctionCall) goja.Value {
	value, id := call.Argument(1), call.Argument(0).ToInteger()
	if object, ok := value.(*goja.Object); ok && id >= 0 && id < int64(len(m.literals)) {
		m.origins[object] = m.literals[id]
	}
	if len(m.origins) > maxLiterals {
		m.vm.Interrupt(fmt.Sprintf("the module makes more than %d objects", maxLiterals))
	}
	return value
}

// node turns a value into a tree. at is the place of the expression that it came from; a literal knows
// its own.
func (m *typeScriptModule) node(v goja.Value, at nodePos) *node {
	if m.nodes++; m.nodes > maxNodes {
		panic(m.vm.NewGoError(fmt.Errorf("the default export holds more than %d values", maxNodes)))
	}
	switch v := v.(type) {
	case nil:
		return &node{at: at, text: "undefined"}
	case *goja.Object:
		if origin, ok := m.origins[v]; ok {
			at = m.position(origin.Idx0(), at)
		}
		switch v.ExportType() {
		case reflect.TypeFor[[]any]():
			return m.list(v, at)
		case reflect.TypeFor[map[string]any]():
			return m.object(v, at)
		case reflect.TypeFor[*goja.Promise]():
			return &node{at: at, text: "a Promise"}
		}
		if class := v.ClassName(); class != "Object" {
			return &node{at: at, text: "a " + class}
		}
		return &node{at: at, text: "an object of its own kind"}
	case *goja.Symbol:
		return &node{at: at, text: "a Symbol"}
	}
	switch value := v.Export().(type) {
	case nil:
		if goja.IsNull(v) {
			return &node{kind: nodeNull, at: at}
		}
		return &node{at: at, text: "undefined"}
	case bool:
		return &node{kind: nodeBool, at: at, text: fmt.Sprint(value)}
	case int64:
		return &node{kind: nodeNumber, at: at, number: float64(value)}
	case float64:
		return &node{kind: nodeNumber, at: at, number: value}
	case string:
		return &node{kind: nodeText, at: at, text: value}
	case *big.Int:
		return &node{at: at, text: "a BigInt"}
	default:
		return &node{at: at, text: "a " + v.ExportType().String()}
	}
}

func (m *typeScriptModule) list(v *goja.Object, at nodePos) *node {
	n := &node{kind: nodeList, at: at}
	length := v.Get("length").ToInteger()
	literal, _ := m.origins[v].(*ast.ArrayLiteral)
	for i := range length {
		itemAt := at
		if literal != nil && int64(len(literal.Value)) == length && literal.Value[i] != nil {
			itemAt = m.position(literal.Value[i].Idx0(), at)
		}
		n.items = append(n.items, m.node(v.Get(fmt.Sprint(i)), itemAt))
	}
	return n
}

func (m *typeScriptModule) object(v *goja.Object, at nodePos) *node {
	n := &node{kind: nodeMap, at: at}
	literal, _ := m.origins[v].(*ast.ObjectLiteral)
	for _, key := range v.Keys() {
		places, elsewhere := m.places(literal, key, at)
		value := m.node(v.Get(key), elsewhere)
		for _, place := range places {
			n.entries = append(n.entries, nodeEntry{key: key, at: place, value: value})
		}
	}
	return n
}

// places returns where a literal names a key, twice for a key written twice, and where its value is.
// A key that came through a spread is at the spread, one that came later at the literal.
func (m *typeScriptModule) places(literal *ast.ObjectLiteral, key string, at nodePos) (keys []nodePos, value nodePos) {
	value, other := at, at
	var properties []ast.Property
	if literal != nil {
		properties = literal.Value
	}
	for _, p := range properties {
		switch p := p.(type) {
		case *ast.PropertyShort:
			if p.Name.Name.String() == key {
				value = m.position(p.Idx0(), at)
				keys = append(keys, value)
			}
		case *ast.PropertyKeyed:
			if literalKey(p) == key {
				value = m.position(p.Value.Idx0(), at)
				keys = append(keys, m.position(p.Key.Idx0(), at))
			}
		case *ast.SpreadElement:
			other = m.position(p.Idx0(), at)
		}
	}
	if keys == nil {
		return []nodePos{other}, other
	}
	return keys, value
}

func literalKey(p *ast.PropertyKeyed) string {
	switch key := p.Key.(type) {
	case *ast.StringLiteral:
		return key.Value.String()
	case *ast.NumberLiteral:
		return key.Literal
	default:
		return ""
	}
}

// position maps a place in the bundle to one in the file that it was made from, else to fallback.
func (m *typeScriptModule) position(idx file.Idx, fallback nodePos) nodePos {
	p := m.program.File.Position(int(idx) - m.program.File.Base())
	return m.original(p, fallback)
}

func (m *typeScriptModule) original(p file.Position, fallback nodePos) nodePos {
	name, _, line, column, ok := m.sourceMap.Source(p.Line, p.Column-1)
	content := m.sourceMap.SourceContent(name)
	if !ok || content == "" || content == sdkSource {
		return fallback
	}
	source, ok := m.sources[name]
	if !ok {
		source = newNodeSource(filepath.Join(filepath.Dir(m.entry.name), filepath.FromSlash(name)), content)
		m.sources[name] = source
	}
	return source.fromUTF16(line, column)
}

// failure turns what the script engine returns into a problem: no stack, one place, one sentence.
func (m *typeScriptModule) failure(err error) *LoopsProblem {
	at := typeScriptExport(m.entry)
	var thrown interface {
		error
		Stack() []goja.StackFrame
	}
	if errors.As(err, &thrown) {
		for _, frame := range thrown.Stack() {
			if p := frame.Position(); p.Line > 0 && frame.SrcName() == m.entry.name {
				at = m.original(p, at)
				break
			}
		}
	}
	var exception *goja.Exception
	var interrupted *goja.InterruptedError
	var overflow *goja.StackOverflowError
	switch {
	case errors.As(err, &interrupted):
		return m.problem(at, "a loop file is read at every start: it has to be quick", "%v", interrupted.Value())
	case errors.As(err, &overflow):
		return m.problem(at, "", "the module calls itself without end")
	case errors.As(err, &exception) && exception.Unwrap() != nil: // our own
		return m.problem(at, "", "%v", exception.Unwrap())
	case errors.As(err, &exception):
		text := "an error without text"
		_ = m.guard(func() { text = exception.Value().String() }) // its toString may fail, too: then it has no text
		return m.problem(at, "", "this module fails: %s", text)
	default:
		return m.problem(at, "", "this module fails: %v", err)
	}
}

func (m *typeScriptModule) problem(at nodePos, hint, format string, args ...any) *LoopsProblem {
	p := newLoopsProblem(at, hint, format, args...)
	return &p
}
