package lint

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Each direct dependency earns its line, and no line is left of one that is gone.
func TestDependenciesAreDocumented(t *testing.T) {
	root := filepath.Join("..", "..", "..")
	module, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	needed := map[string]bool{}
	require := regexp.MustCompile(`(?m)^(?:require )?\s*(\S+\.\S+/\S+) v\S+( // indirect)?$`)
	for _, m := range require.FindAllStringSubmatch(string(module), -1) {
		if m[2] == "" {
			needed[m[1]] = true
		}
	}
	tool := regexp.MustCompile(`(?m)^tool (\S+)$`)
	for _, m := range tool.FindAllStringSubmatch(string(module), -1) {
		needed[m[1]] = true
	}
	if len(needed) < 10 {
		t.Fatalf("found %d direct dependencies only: the rule would hold of nothing", len(needed))
	}
	row := regexp.MustCompile(`(?m)^\| (\S+\.\S+/\S+) \|`)
	listed := map[string]bool{}
	for _, m := range row.FindAllStringSubmatch(string(page), -1) {
		listed[m[1]] = true
		if !needed[m[1]] {
			t.Errorf("docs/dependencies.md lists %s, which go.mod does not need directly", m[1])
		}
	}
	for path := range needed {
		if !listed[path] {
			t.Errorf("docs/dependencies.md has no line for %s", strings.TrimSpace(path))
		}
	}
}
