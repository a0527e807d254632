package config

import (
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tiergate/tiergate/internal/loops"
)

const (
	// maxLoopFile is some fifty times a real file. What is nested to the end of one this long, both
	// parsers survive; at a megabyte they overflow the stack, which Go cannot recover from.
	maxLoopFile = 64 << 10
	// maxNesting is checked before parsing: the YAML parser's time and memory grow with its square.
	maxNesting = 200
	// maxReading bounds one file as a whole, parsers included.
	maxReading = 5 * time.Second
)

// Loops reads loop files, TypeScript (.ts) and YAML (.yaml, .yml), each with one loop or several.
// A *LoopsError holds every problem of every file; other errors are Faults about a file that cannot
// be read. TypeScript is evaluated without network and files, and sees an allow-list of the
// variables of process, .env.local and .env.
func Loops(paths []string) ([]loops.Loop, error) {
	var v validation
	for _, path := range paths {
		file, err := readLoopFile(path)
		if err != nil {
			return nil, &loops.Fault{Step: "read the loops", Err: err, Hint: "make " + path + " a readable file, or point the setting loops somewhere else"}
		}
		nodes, problems := loopNodes(file)
		v.problems = append(v.problems, problems...)
		for _, n := range nodes {
			v.file(n)
		}
		if len(nodes) == 0 && len(problems) == 0 {
			v.fail(file.start(), "export one loop, or a list of them", "there is no loop in this file")
		}
	}
	if len(v.problems) > 0 {
		return nil, newLoopsError(v.problems)
	}
	return v.loops, nil
}

func readLoopFile(path string) (*nodeSource, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxLoopFile+1))
	if err != nil {
		return nil, err
	}
	return newNodeSource(path, strings.TrimPrefix(string(text), "\ufeff")), nil
}

// loopNodes turns one file into trees. It runs beside the caller, because neither a parser nor a
// native function of the script engine can be stopped from outside; one that is late is left behind.
func loopNodes(file *nodeSource) ([]*node, []LoopsProblem) {
	if p := checkLoopFile(file); p != nil {
		return nil, []LoopsProblem{*p}
	}
	type result struct {
		nodes    []*node
		problems []LoopsProblem
	}
	done := make(chan result, 1)
	go func() {
		var r result
		defer func() {
			if cause := recover(); cause != nil {
				r = result{problems: []LoopsProblem{newLoopsProblem(file.start(), "", "the file cannot be read: %v", cause)}}
			}
			done <- r
		}()
		if filepath.Ext(file.name) == ".ts" {
			r.nodes, r.problems = typeScriptNodes(file)
		} else {
			r.nodes, r.problems = yamlNodes(file)
		}
	}()
	select {
	case r := <-done:
		return r.nodes, r.problems
	case <-time.After(maxReading):
		return nil, []LoopsProblem{newLoopsProblem(file.start(), "", "the file was not read within %v", maxReading)}
	}
}

// checkLoopFile refuses what the parsers would choke on.
func checkLoopFile(file *nodeSource) *LoopsProblem {
	if len(file.text) > maxLoopFile {
		p := newLoopsProblem(file.start(), "loops are policy, not data: a few lines each", "the file is larger than %d KB", maxLoopFile>>10)
		return &p
	}
	depth := 0
	for i, line := range file.lines {
		if !utf8.ValidString(line) {
			p := newLoopsProblem(file.fromBytes(i+1, 0), "save the file as UTF-8", "this line is not UTF-8")
			return &p
		}
		for offset, char := range []byte(line) {
			switch char {
			case '[', '{', '(':
				depth++
			case ']', '}', ')':
				depth = max(0, depth-1)
			}
			if depth > maxNesting {
				p := newLoopsProblem(file.fromBytes(i+1, offset), "", "nested more than %d deep", maxNesting)
				return &p
			}
		}
	}
	return nil
}

// FindLoops returns the loop files that a setting means, relative to dir: a file, a folder or a
// pattern such as loops/*.{ts,yaml}. Empty means skene.config.ts, else the folder loops. The error
// is a Fault that says what to create.
func FindLoops(dir, setting string) ([]string, error) {
	if setting == "" {
		if path := filepath.Join(dir, "skene.config.ts"); isFile(path) {
			return []string{path}, nil
		}
		if paths := loopFiles(filepath.Join(dir, "loops")); len(paths) > 0 {
			return paths, nil
		}
		return nil, noLoops(fmt.Errorf("there is no skene.config.ts, and no .ts or .yaml file in the folder loops (looked in %s)", cmp.Or(dir, ".")))
	}
	path := setting
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	if isFile(path) {
		if !isLoopFile(path) {
			return nil, noLoops(fmt.Errorf("loops: %s is neither .ts nor .yaml", setting))
		}
		return []string{path}, nil
	}
	paths := loopFiles(path)
	if len(paths) == 0 {
		paths = matchLoopFiles(path)
	}
	if len(paths) == 0 {
		return nil, noLoops(fmt.Errorf("loops: no .ts or .yaml file at %s", setting))
	}
	return paths, nil
}

func noLoops(err error) error {
	return &loops.Fault{Step: "find the loops", Err: err, Hint: `create skene.config.ts:

    import { defineLoop } from '@skene/sdk';
    export default defineLoop({
      type: 'freemium',
      steps: [{
        trigger: { type: 'api', endpoint: '/api/features/*' },
        condition: { type: 'usage', limit: { free: 100, paid: Infinity }, period: '30d' },
        action: { type: 'block', message: "You've reached your limit." },
      }],
    });`}
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}

// isLoopFile tells loops from the declarations that lie beside them.
func isLoopFile(path string) bool {
	return slices.Contains([]string{".ts", ".yaml", ".yml"}, filepath.Ext(path)) && !strings.HasSuffix(path, ".d.ts")
}

// loopFiles returns the loop files directly in a folder, by name.
func loopFiles(folder string) []string {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil
	}
	var paths []string
	for _, e := range entries {
		if path := filepath.Join(folder, e.Name()); isLoopFile(path) && isFile(path) {
			paths = append(paths, path)
		}
	}
	return paths
}

// matchLoopFiles returns the loop files that a pattern matches; one {a,b} is a choice.
func matchLoopFiles(pattern string) []string {
	patterns := []string{pattern}
	if before, rest, ok := strings.Cut(pattern, "{"); ok {
		if choices, after, ok := strings.Cut(rest, "}"); ok {
			patterns = nil
			for choice := range strings.SplitSeq(choices, ",") {
				patterns = append(patterns, before+choice+after)
			}
		}
	}
	var paths []string
	for _, p := range patterns {
		matches, err := filepath.Glob(p)
		if err != nil {
			continue // a pattern that cannot be read matches nothing, and that is reported
		}
		paths = append(paths, slices.DeleteFunc(matches, func(path string) bool { return !isLoopFile(path) || !isFile(path) })...)
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

//go:embed skene-env.d.ts
var loopTypes []byte

// TypesFile is the file that tells editors and tsc about '@skene/sdk'.
const TypesFile = "skene-env.d.ts"

// WriteTypes writes skene-env.d.ts into dir, and reports whether it was missing or another version's.
func WriteTypes(dir string) (changed bool, err error) {
	path := filepath.Join(dir, TypesFile)
	old, err := os.ReadFile(path)
	if err == nil && slices.Equal(old, loopTypes) {
		return false, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, &loops.Fault{Step: "write " + path, Err: err}
	}
	if err := os.WriteFile(path, loopTypes, 0o644); err != nil {
		return false, &loops.Fault{Step: "write " + path, Err: err, Hint: "let the sidecar write into the folder, or copy the file by hand"}
	}
	return true, nil
}
