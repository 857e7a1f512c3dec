package doctor

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// TestProgramsAreTheirSource assembles every program literal of the package and compares the code.
func TestProgramsAreTheirSource(t *testing.T) {
	for _, tool := range []string{"as", "objcopy"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed: the programs can't be assembled", tool)
		}
	}
	programs := programLiterals(t)
	if len(programs) < len(instructions) {
		t.Fatalf("%d program literals found, fewer than the %d instructions", len(programs), len(instructions))
	}
	for _, p := range programs {
		if got := assemble(t, p.source); got != p.code {
			t.Errorf("%q is %q, not %q", p.source, got, p.code)
		}
	}
}

// programLiterals returns every program{source: …, code: …} in the package's source.
func programLiterals(t *testing.T) []program {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var programs []program
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			lit, ok := n.(*ast.CompositeLit)
			if !ok {
				return true
			}
			if name, ok := lit.Type.(*ast.Ident); ok && name.Name == "program" && len(lit.Elts) == 2 {
				source, isText := constant(lit.Elts[0])
				code, isCode := constant(lit.Elts[1])
				if isText && isCode {
					programs = append(programs, program{source, code})
				}
			}
			return true
		})
	}
	return programs
}

// constant evaluates a string literal, or a sum of them, behind an optional key.
func constant(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.KeyValueExpr:
		return constant(e.Value)
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil
	case *ast.BinaryExpr:
		left, ok := constant(e.X)
		right, also := constant(e.Y)
		return left + right, ok && also
	}
	return "", false
}

func assemble(t *testing.T, source string) string {
	t.Helper()
	dir := t.TempDir()
	object, binary := filepath.Join(dir, "o"), filepath.Join(dir, "bin")
	if err := os.WriteFile(filepath.Join(dir, "s"), []byte(source+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"as", "--64", "-o", object, filepath.Join(dir, "s")},
		{"objcopy", "-O", "binary", "-j", ".text", object, binary},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", source, err, out)
		}
	}
	code, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	return string(code)
}
