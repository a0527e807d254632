// Package config reads what an operator writes: loops in TypeScript or YAML, and the wiring in the
// environment, .env files and sidecar.yaml. One validated model comes out, or every problem at once.
package config

// meant asks "did you mean", where there is something to ask.
func meant(name string) string {
	if name == "" {
		return ""
	}
	return "did you mean " + name + "?"
}
