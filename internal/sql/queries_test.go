package sql

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestQueriesAreNamedAndUsed holds that every dialect words the same statements, that each is in a file named after
// the one that uses it first, and that code asks for those and no others.
func TestQueriesAreNamedAndUsed(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	call := regexp.MustCompile(`\.query\("([^"]+)"`)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range call.FindAllStringSubmatch(string(text), -1) {
			used[m[1]] = true
		}
	}
	dialects, err := fs.ReadDir(queryFiles, "queries")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dialects {
		named := slices.Sorted(maps.Keys(queriesOf(d.Name())))
		if want := slices.Sorted(maps.Keys(used)); !slices.Equal(named, want) {
			t.Errorf("queries/%s has %q, the code uses %q", d.Name(), named, want)
		}
	}
}
