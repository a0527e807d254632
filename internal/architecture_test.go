package internal_test

import (
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/tiergate/tiergate"

// TestCoreKnowsNoTechnology holds that nothing the core needs, however deep, opens a connection or
// speaks to a vendor.
func TestCoreKnowsNoTechnology(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "./loops").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	deps := strings.Fields(string(out))
	if !slices.Contains(deps, "time") || !slices.Contains(deps, module+"/internal/loops") {
		t.Fatalf("go list names no dependencies: %q", deps)
	}
	for _, dep := range deps {
		switch first, _, _ := strings.Cut(dep, "/"); {
		case dep == "net", strings.HasPrefix(dep, "net/"), strings.HasPrefix(dep, "database/"), dep == "os/exec":
			t.Errorf("internal/loops reaches %s", dep)
		case strings.Contains(first, ".") && dep != module+"/internal/loops":
			t.Errorf("internal/loops reaches %s: the core needs the standard library only", dep)
		}
	}
}

// TestAdaptersDoNotKnowEachOther holds that each technology is joined to others only by cmd/sidecar.
func TestAdaptersDoNotKnowEachOther(t *testing.T) {
	allowed := map[string][]string{ // besides internal/loops
		"loops":  {},
		"cdc":    {},
		"sql":    {"sql/functions"},
		"mail":   {"internal/spell"},
		"web":    {},
		"config": {"internal/spell"},
	}
	for name, more := range allowed {
		imports := importsOf(t, name)
		if len(imports) == 0 {
			t.Errorf("internal/%s has no files", name)
		}
		for path, file := range imports {
			own, isOwn := strings.CutPrefix(path, module+"/")
			fits := own == "internal/loops" || strings.HasPrefix(own, "internal/"+name+"/") || slices.Contains(more, own)
			if isOwn && !fits {
				t.Errorf("%s imports %s", file, own)
			}
		}
	}
}

// importsOf returns what the files of a package import, tests left out, each with a file that does.
func importsOf(t *testing.T, name string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(name, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	imports := map[string]string{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, source, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range parsed.Imports {
			path, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			imports[path] = file
		}
	}
	return imports
}
