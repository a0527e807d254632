package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/evanw/esbuild/pkg/api"
)

const (
	sdkModule = "@skene/sdk"
	sdkSource = "export const defineLoop = (loop) => loop"

	// exportName is the global variable that a bundle leaves its exports in.
	exportName = "__exports"

	apostropheHint = "this looks like an apostrophe inside a single-quoted string: use double quotes, or write \\'"
	noExportHint   = "write export default defineLoop({ … })"
)

// typeScriptNodes bundles a module with what it imports, runs it, and returns its default export:
// one tree for a loop, several for a list of them.
func typeScriptNodes(file *nodeSource) ([]*node, []LoopsProblem) {
	code, sourceMap, problems := bundleTypeScript(file)
	if len(problems) > 0 {
		return nil, problems
	}
	module, err := newTypeScriptModule(file, code, sourceMap)
	if err != nil {
		return nil, []LoopsProblem{newLoopsProblem(typeScriptExport(file), "", "this module cannot be run: %v", err)}
	}
	root, problem := module.run(typeScriptEnvironment())
	if problem != nil {
		return nil, []LoopsProblem{*problem}
	}
	if root.kind == nodeList {
		return root.items, nil
	}
	return []*node{root}, nil
}

// bundleTypeScript returns one script and its source map, whose sources are relative to the file's folder.
func bundleTypeScript(file *nodeSource) (code, sourceMap []byte, problems []LoopsProblem) {
	path, err := filepath.Abs(file.name)
	if err != nil {
		return nil, nil, []LoopsProblem{newLoopsProblem(file.start(), "", "%v", err)}
	}
	result := api.Build(api.BuildOptions{
		EntryPoints:       []string{path},
		AbsWorkingDir:     filepath.Dir(path),
		Outfile:           filepath.Join(filepath.Dir(path), "bundle.js"),
		Bundle:            true,
		Format:            api.FormatIIFE,
		GlobalName:        exportName,
		Target:            api.ES2020,
		Platform:          api.PlatformNeutral,
		Sourcemap:         api.SourceMapExternal,
		ResolveExtensions: []string{".ts", ".js", ".json"},
		TsconfigRaw:       "{}",
		LogLevel:          api.LogLevelSilent,
		LogLimit:          maxLoopsProblems,
		Plugins:           []api.Plugin{{Name: "loops", Setup: func(build api.PluginBuild) { confineTypeScript(build, path, file) }}},
	})
	for _, m := range result.Errors {
		problems = append(problems, typeScriptSyntax(file, m))
	}
	for _, out := range result.OutputFiles {
		if strings.HasSuffix(out.Path, ".map") {
			sourceMap = out.Contents
		} else {
			code = out.Contents
		}
	}
	return code, sourceMap, problems
}

// confineTypeScript supplies the SDK, lets relative imports of small files through, and refuses the rest.
func confineTypeScript(build api.PluginBuild, entry string, file *nodeSource) {
	build.OnResolve(api.OnResolveOptions{Filter: ".*"}, func(args api.OnResolveArgs) (api.OnResolveResult, error) {
		switch {
		case args.Path == sdkModule:
			return api.OnResolveResult{Path: sdkModule, Namespace: "sdk"}, nil
		case args.Kind == api.ResolveEntryPoint, strings.HasPrefix(args.Path, "./"), strings.HasPrefix(args.Path, "../"):
			return api.OnResolveResult{}, nil
		}
		return api.OnResolveResult{}, fmt.Errorf("%s cannot be imported: a loop file may import '%s' and relative paths", nodeQuote(args.Path), sdkModule)
	})
	build.OnLoad(api.OnLoadOptions{Filter: ".*", Namespace: "sdk"}, func(api.OnLoadArgs) (api.OnLoadResult, error) {
		source := sdkSource
		return api.OnLoadResult{Contents: &source, Loader: api.LoaderJS}, nil
	})
	build.OnLoad(api.OnLoadOptions{Filter: ".*", Namespace: "file"}, func(args api.OnLoadArgs) (api.OnLoadResult, error) {
		loaders := map[string]api.Loader{".ts": api.LoaderTS, ".js": api.LoaderJS, ".json": api.LoaderJSON}
		loader, ok := loaders[filepath.Ext(args.Path)]
		if !ok {
			return api.OnLoadResult{}, errors.New("only .ts, .js and .json files can be imported")
		}
		imported := file
		if args.Path != entry {
			var err error
			if imported, err = readLoopFile(args.Path); err != nil {
				return api.OnLoadResult{}, err
			}
			if p := checkLoopFile(imported); p != nil {
				return api.OnLoadResult{}, errors.New(p.Problem)
			}
		}
		return api.OnLoadResult{Contents: &imported.text, Loader: loader}, nil
	})
}

// typeScriptSyntax turns a message of the bundler into a problem.
func typeScriptSyntax(file *nodeSource, m api.Message) LoopsProblem {
	if m.Location == nil {
		return newLoopsProblem(file.start(), "", "%s", m.Text)
	}
	l := m.Location
	source := &nodeSource{name: filepath.Join(filepath.Dir(file.name), l.File)}
	source.lines = append(make([]string, max(0, l.Line-1)), l.LineText)
	hint := ""
	for _, note := range m.Notes {
		hint = note.Text
	}
	if isApostrophe(l.LineText, l.Column) {
		hint = apostropheHint
	}
	return newLoopsProblem(source.fromBytes(l.Line, l.Column), hint, "%s", m.Text)
}

// isApostrophe reports whether a quote between two letters ends just where the parser stumbled.
func isApostrophe(line string, column int) bool {
	if column < 2 || column >= len(line) || line[column-1] != '\'' {
		return false
	}
	before, _ := utf8.DecodeLastRuneInString(line[:column-1])
	after, _ := utf8.DecodeRuneInString(line[column:])
	return unicode.IsLetter(before) && unicode.IsLetter(after)
}

// typeScriptExport is where a file exports its loops, as far as its text says.
func typeScriptExport(file *nodeSource) nodePos {
	statement := regexp.MustCompile(`^\s*export\s+default\b`)
	if i := slices.IndexFunc(file.lines, statement.MatchString); i >= 0 {
		return file.fromBytes(i+1, strings.Index(file.lines[i], "export"))
	}
	return file.start()
}

// typeScriptEnvironment returns what process.env holds. What a loop says ends up in the database and
// in emails, so that nothing secret may get in: the rest is undefined.
func typeScriptEnvironment() map[string]string {
	env, _ := readEnvironment(".", os.Environ()) // Load reports a file that cannot be read
	visible := map[string]string{}
	for _, name := range env.names() {
		if isVisible(name) {
			visible[name], _, _ = env.lookup(name)
		}
	}
	return visible
}

func isVisible(name string) bool {
	for _, secret := range []string{"TOKEN", "SECRET", "KEY", "PASSWORD"} {
		if strings.Contains(name, secret) {
			return false
		}
	}
	return slices.Contains([]string{"NODE_ENV", "VERCEL_ENV", "UPGRADE_URL", "PUBLIC_URL"}, name) ||
		strings.HasPrefix(name, "TIERGATE_") || strings.HasPrefix(name, "NEXT_PUBLIC_")
}
