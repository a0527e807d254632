package config

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tiergate/tiergate/internal/loops"
)

const configs = "../../testdata/configs"

var updateGolden = flag.Bool("update", false, "write the golden files of testdata/configs anew")

// TestLoops reads every file of testdata/configs, and every folder as one set of files, and compares
// loops or problems with NAME.golden.
func TestLoops(t *testing.T) {
	t.Chdir(configs)
	t.Setenv("TIERGATE_TEXT", "test")
	t.Setenv("TIERGATE_ADMIN_TOKEN", "hunter2")
	t.Setenv("DATABASE_URL", "postgres://app:hunter2@db/shop")
	for name, paths := range loopCases(t) {
		t.Run(name, func(t *testing.T) {
			got := outcome(paths)
			if strings.Contains(got, "hunter2") {
				t.Fatal("a secret got into the outcome")
			}
			golden := name + ".golden"
			if *updateGolden {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
		})
	}
}

func loopCases(t *testing.T) map[string][]string {
	t.Helper()
	cases := map[string][]string{}
	for _, path := range loopFiles(".") {
		cases[path] = []string{path}
	}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && e.Name() != "imported" {
			cases[e.Name()] = loopFiles(e.Name())
		}
	}
	if len(cases) < 30 {
		t.Fatalf("only %d configs found", len(cases))
	}
	return cases
}

// outcome prints what the files say, or what is wrong with them.
func outcome(paths []string) string {
	list, err := Loops(paths)
	if err != nil {
		return err.Error() + "\n"
	}
	var b strings.Builder
	for _, l := range list {
		fmt.Fprintf(&b, "%s at %s (%s)\n", l.Name, l.Source, l.Enforcement)
		fmt.Fprintf(&b, "  opinion %q\n  message %q\n", l.Opinion, l.Message)
		fmt.Fprintf(&b, "  trigger %s %s%s, feature %s\n", l.Trigger.Kind, l.Trigger.Method, l.Trigger.Endpoint, l.Feature)
		for _, tier := range slices.Sorted(maps.Keys(l.Limits)) {
			fmt.Fprintf(&b, "  limit %s %s\n", tier, l.Limits[tier])
		}
		fmt.Fprintf(&b, "  window %s %q %s %s %v\n", l.Window.Kind, l.Window.Period.Text, l.Window.Period.Unit, l.Window.Period.Length, l.Window.Zone)
		fmt.Fprintf(&b, "  warn at %v\n", l.WarnAt)
		if l.Prompt != nil {
			fmt.Fprintf(&b, "  prompt %+v\n", *l.Prompt)
		}
	}
	return b.String()
}

func TestLoopsSameModel(t *testing.T) {
	t.Chdir(configs)
	t.Setenv("TIERGATE_TEXT", "test")
	for _, name := range []string{"seed_fixed", "every_key"} {
		t.Run(name, func(t *testing.T) {
			script, err := Loops([]string{name + ".ts"})
			if err != nil {
				t.Fatal(err)
			}
			data, err := Loops([]string{name + ".yaml"})
			if err != nil {
				t.Fatal(err)
			}
			sameZone := cmp.Comparer(func(a, b *time.Location) bool { return a.String() == b.String() })
			if diff := cmp.Diff(script, data, cmpopts.IgnoreFields(loops.Loop{}, "Source"), sameZone); diff != "" {
				t.Errorf("the two languages differ (-ts +yaml):\n%s", diff)
			}
		})
	}
}

func TestLoopsSeed(t *testing.T) {
	t.Chdir(configs)
	got, err := Loops([]string{"seed_fixed.ts"})
	if err != nil {
		t.Fatal(err)
	}
	want := []loops.Loop{{
		Name:        "freemium.features",
		Opinion:     "Free users should experience core value before hitting a wall.",
		Feature:     "features",
		Trigger:     loops.Trigger{Kind: loops.OnAPI, Endpoint: "/api/features/*", Method: "POST"},
		Limits:      map[string]loops.Limit{"free": 100, "paid": loops.Unlimited},
		Window:      loops.Window{Kind: loops.Anchored, Period: loops.Period{Text: "30d", Length: 30 * 24 * time.Hour}},
		Enforcement: loops.Async,
		Message:     "You've reached your free tier limit. Upgrade to continue.",
		Prompt:      &loops.Prompt{Provider: "resend", Template: "upgrade_prompt", Retries: -1},
		Source:      "seed_fixed.ts:7:5",
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("loops (-want +got):\n%s", diff)
	}
}

// TestLoopsTooMuch feeds what would exhaust a parser: one clear message, at once.
func TestLoopsTooMuch(t *testing.T) {
	long := strings.Repeat("# 10 MB of nothing\n", 10<<20/19)
	for _, tc := range []struct{ name, text, want string }{
		{"long.yaml", long, "the file is larger than 64 KB"},
		{"long.ts", strings.ReplaceAll(long, "#", "//"), "the file is larger than 64 KB"},
		{"deep.yaml", strings.Repeat("[", maxLoopFile), "nested more than 200 deep"},
		{"deep.ts", "export default " + strings.Repeat("[", maxLoopFile-20), "nested more than 200 deep"},
		{"values.yaml", strings.Repeat("- 1\n", maxNodes+1), "the file holds more than 10000 values"},
		{"values.ts", "export default Array.from({ length: 1e5 }, () => 1);", "the default export holds more than 10000 values"},
		{"objects.ts", "for (;;) ({}); export default 1", "the module makes more than 100000 objects"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), tc.name)
			if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			_, err := Loops([]string{path})
			var problems *LoopsError
			if !errors.As(err, &problems) || len(problems.Problems) != 1 {
				t.Fatalf("got %v, want one problem", err)
			}
			if got := problems.Problems[0].Problem; !strings.Contains(got, tc.want) {
				t.Errorf("problem %q, want %q", got, tc.want)
			}
			if took := time.Since(begin); took > maxReading {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestLoopsUnreadable(t *testing.T) {
	_, err := Loops([]string{t.TempDir()})
	var fault *loops.Fault
	if !errors.As(err, &fault) || fault.Kind != loops.Permanent || fault.Hint == "" {
		t.Errorf("got %v, want a fault with a way out", err)
	}
}

func TestFindLoops(t *testing.T) {
	tree := func(names ...string) string {
		dir := t.TempDir()
		for _, name := range names {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	all := tree("skene.config.ts", "skene-env.d.ts", "loops/b.ts", "loops/a.yaml", "loops/c.yml", "loops/types.d.ts", "loops/readme.md", "loops/x/deep.ts")
	for _, tc := range []struct {
		name, dir, setting string
		want               []string
		problem            string
	}{
		{"default file", all, "", []string{"skene.config.ts"}, ""},
		{"default folder", tree("loops/b.ts", "loops/a.yaml"), "", []string{"loops/a.yaml", "loops/b.ts"}, ""},
		{"file", all, "loops/b.ts", []string{"loops/b.ts"}, ""},
		{"absolute file", all, filepath.Join(all, "loops/b.ts"), []string{"loops/b.ts"}, ""},
		{"folder", all, "loops", []string{"loops/a.yaml", "loops/b.ts", "loops/c.yml"}, ""},
		{"pattern", all, "loops/*.ts", []string{"loops/b.ts"}, ""},
		{"choice", all, "loops/*.{ts,yaml}", []string{"loops/a.yaml", "loops/b.ts"}, ""},
		{"nothing", tree("skene-env.d.ts"), "", nil, "create skene.config.ts"},
		{"missing", all, "other.ts", nil, "no .ts or .yaml file at other.ts"},
		{"other kind", all, "loops/readme.md", nil, "neither .ts nor .yaml"},
		{"bad pattern", all, "loops/[", nil, "no .ts or .yaml file at loops/["},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := FindLoops(tc.dir, tc.setting)
			if tc.problem != "" {
				if err == nil || !strings.Contains(err.Error(), tc.problem) {
					t.Fatalf("got %v, %v, want %q", got, err, tc.problem)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for i := range got {
				if got[i], err = filepath.Rel(tc.dir, got[i]); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("paths (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWriteTypes(t *testing.T) {
	dir := t.TempDir()
	for i, want := range []bool{true, false} {
		if changed, err := WriteTypes(dir); err != nil || changed != want {
			t.Fatalf("call %d: %v, %v", i+1, changed, err)
		}
	}
	path := filepath.Join(dir, TypesFile)
	if err := os.WriteFile(path, []byte("// of an older version"), 0o600); err != nil {
		t.Fatal(err)
	}
	if changed, err := WriteTypes(dir); err != nil || !changed {
		t.Fatalf("an older version's: %v, %v", changed, err)
	}
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), "declare module '@skene/sdk'") {
		t.Fatalf("%s, %v", text, err)
	}
	if _, err := WriteTypes(filepath.Join(dir, "missing")); err == nil {
		t.Error("wrote into a folder that does not exist")
	}
}

// FuzzLoopsYAML holds that no text makes the reader panic, and that what it accepts is a whole loop.
func FuzzLoopsYAML(f *testing.F) {
	paths, err := filepath.Glob(filepath.Join(configs, "*.yaml"))
	if err != nil || len(paths) == 0 {
		f.Fatal(paths, err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, text string) {
		file := newNodeSource("fuzz.yaml", text)
		if checkLoopFile(file) != nil {
			return
		}
		nodes, problems := yamlNodes(file)
		v := validation{problems: problems}
		for _, n := range nodes {
			v.file(n)
		}
		for _, p := range v.problems {
			if p.Line < 1 || p.Column < 1 || p.String() == "" {
				t.Errorf("a problem without a place: %+v", p)
			}
		}
		if len(v.problems) > 0 {
			return
		}
		for _, l := range v.loops {
			if _, ok := l.Limits[loops.DefaultTier]; !ok || !isLoopName(l.Feature) || (l.Window.Kind == loops.Calendar && l.Window.Zone == nil) {
				t.Errorf("accepted %+v", l)
			}
			l.Window.Open(time.Unix(1_700_000_000, 0), time.Time{})
		}
	})
}
