package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/joho/godotenv"

	"github.com/tiergate/tiergate/internal/loops"
)

// environment is where variables come from, the strongest layer first.
type environment []layer

type layer struct {
	name   string // "the environment", ".env.local", ".env"
	values map[string]string
}

// readEnvironment puts the process's variables before .env.local, and that before .env. Nothing is
// written into the process.
func readEnvironment(dir string, environ []string) (environment, []error) {
	process := map[string]string{}
	for _, pair := range environ {
		if name, text, ok := strings.Cut(pair, "="); ok {
			process[name] = text
		}
	}
	env := environment{{"the environment", process}}
	var problems []error
	for _, name := range []string{".env.local", ".env"} {
		values, err := readDotenv(filepath.Join(dir, name))
		if err != nil {
			problems = append(problems, &loops.Fault{Step: "read " + name, Err: err,
				Hint: "every line is NAME=value; a value with spaces, # or $ goes into 'single quotes'"})
			continue
		}
		env = append(env, layer{name, values})
	}
	return env, problems
}

// readDotenv reads one file; a file that is not there has no variables. The parser's own message
// quotes the rest of the file, secrets and all, so that only the line's number is passed on.
func readDotenv(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	values, err := godotenv.UnmarshalBytes(text)
	if err == nil {
		return values, nil
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	good := len(lines)
	for ; good > 0; good-- {
		if _, err := godotenv.UnmarshalBytes(bytes.Join(lines[:good], nil)); err == nil {
			break
		}
	}
	return nil, fmt.Errorf("line %d cannot be read", good+1)
}

// lookup returns a variable and the layer that has it. A variable that is set to nothing hides the
// weaker layers: that is how .env.local switches something of .env off.
func (e environment) lookup(name string) (text, from string, ok bool) {
	for _, l := range e {
		if text, ok := l.values[name]; ok {
			return text, l.name, true
		}
	}
	return "", "", false
}

// names returns every variable's name, in order, each once.
func (e environment) names() []string {
	var names []string
	for _, l := range e {
		names = slices.AppendSeq(names, maps.Keys(l.values))
	}
	slices.Sort(names)
	return slices.Compact(names)
}
