package debian

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestParseList(t *testing.T) {
	tests := []struct {
		name, text string
		want       []Source
		err        string
	}{
		{name: "empty and comments", text: "\n# deb http://a b c\n   \n"},
		{
			name: "plain", text: "deb http://mirror.example/debian bookworm main contrib # why\n",
			want: []Source{{Types: []string{"deb"}, URIs: []string{"http://mirror.example/debian"},
				Suites: []string{"bookworm"}, Components: []string{"main", "contrib"}, Options: map[string]string{}}},
		},
		{
			name: "options and tabs", text: "deb\t[ arch=amd64,arm64 signed-by=/k.gpg trusted=yes ]\thttp://m/d  trixie\tmain\n",
			want: []Source{{Types: []string{"deb"}, URIs: []string{"http://m/d"}, Suites: []string{"trixie"},
				Components: []string{"main"},
				Options:    map[string]string{"architectures": "amd64 arm64", "signed-by": "/k.gpg", "trusted": "yes"}}},
		},
		{
			name: "flat repository", text: "deb-src file:/r ./\n",
			want: []Source{{Types: []string{"deb-src"}, URIs: []string{"file:/r"}, Suites: []string{"./"},
				Components: []string{}, Options: map[string]string{}}},
		},
		{name: "unknown type", text: "rpm http://m x main\n", err: "line 1: unknown source type"},
		{name: "no suite", text: "\ndeb http://m\n", err: "line 2: a source needs a URI and a suite"},
		{name: "open bracket", text: "deb [arch=amd64 http://m x main\n", err: "closing bracket"},
		{name: "option without value", text: "deb [trusted] http://m x main\n", err: "has no value"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseList(strings.NewReader(tt.text))
			checkSources(t, got, err, tt.want, tt.err)
		})
	}
}

func TestParseDeb822(t *testing.T) {
	tests := []struct {
		name, text string
		want       []Source
		err        string
	}{
		{name: "empty", text: "\n\n# nothing\n"},
		{
			name: "two stanzas",
			text: "Types: deb deb-src\nURIs: http://m/debian\n# a remark\nSuites: bookworm bookworm-updates\nComponents: main\n" +
				"Signed-By: /usr/share/keyrings/k.gpg\n\n\ntypes: deb\nuris: http://m/s\nsuites: bookworm-security\ncomponents: main\n",
			want: []Source{
				{Types: []string{"deb", "deb-src"}, URIs: []string{"http://m/debian"}, Suites: []string{"bookworm", "bookworm-updates"},
					Components: []string{"main"}, Options: map[string]string{"signed-by": "/usr/share/keyrings/k.gpg"}},
				{Types: []string{"deb"}, URIs: []string{"http://m/s"}, Suites: []string{"bookworm-security"},
					Components: []string{"main"}, Options: map[string]string{}},
			},
		},
		{
			name: "embedded key keeps its lines",
			text: "Types: deb\nURIs: http://m\nSuites: x\nComponents: main\nSigned-By:\n -----BEGIN\n .\n abc\n",
			want: []Source{{Types: []string{"deb"}, URIs: []string{"http://m"}, Suites: []string{"x"}, Components: []string{"main"},
				Options: map[string]string{"signed-by": "\n -----BEGIN\n .\n abc"}}},
		},
		{name: "disabled", text: "Enabled: no\nTypes: deb\nURIs: http://m\nSuites: x\nComponents: main\n"},
		{name: "incomplete", text: "Types: deb\nURIs: http://m\n", err: "needs Types, URIs and Suites"},
		{name: "no colon", text: "deb http://m x main\nTypes\n", err: "line 2: no colon"},
		{name: "continuation of nothing", text: " x\n", err: "continuation of no field"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseDeb822(strings.NewReader(tt.text))
			checkSources(t, got, err, tt.want, tt.err)
		})
	}
}

func checkSources(t *testing.T, got []Source, err error, want []Source, wantErr string) {
	t.Helper()
	if wantErr != "" {
		if err == nil || !strings.Contains(err.Error(), wantErr) {
			t.Fatalf("error %v, want one with %q", err, wantErr)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %#v\nwant %#v", got, want)
	}
}

func TestWriteIsReadBack(t *testing.T) {
	in := []Source{
		{Types: []string{"deb"}, URIs: []string{"http://m"}, Suites: []string{"x", "y"}, Components: []string{"main"},
			Options: map[string]string{"signed-by": "\n -----BEGIN\n .\n abc", "trusted": "yes"}},
		{Types: []string{"deb"}, URIs: []string{"file:/r"}, Suites: []string{"./"}, Components: []string{}, Options: map[string]string{}},
	}
	var b bytes.Buffer
	if err := Write(&b, in); err != nil {
		t.Fatal(err)
	}
	got, err := ParseDeb822(&b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, in) {
		t.Errorf("got %#v", got)
	}
}

func TestSystemSourcesReadsBothFormats(t *testing.T) {
	dir := t.TempDir()
	for path, text := range map[string]string{
		"sources.list":                  "deb http://one bookworm main\n",
		"sources.list.d/b.list":         "deb http://two bookworm-updates main\n",
		"sources.list.d/c.sources":      "Types: deb\nURIs: http://three\nSuites: bookworm-security\nComponents: main\n",
		"sources.list.d/ignored.backup": "nonsense\n",
	} {
		p := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := SystemSources(dir)
	if err != nil {
		t.Fatal(err)
	}
	var uris []string
	for _, s := range got {
		uris = append(uris, s.URIs...)
	}
	if want := []string{"http://one", "http://two", "http://three"}; !reflect.DeepEqual(uris, want) {
		t.Errorf("got %q, want %q", uris, want)
	}
	if err := os.WriteFile(filepath.Join(dir, "sources.list"), []byte("what\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := SystemSources(dir); err == nil || !strings.Contains(err.Error(), "sources.list: line 1") {
		t.Errorf("a broken file gives %v", err)
	}
}

func TestSelect(t *testing.T) {
	source := func(uri, suites, components string) Source {
		return Source{Types: []string{"deb"}, URIs: []string{uri}, Suites: strings.Fields(suites),
			Components: strings.Fields(components), Options: map[string]string{"signed-by": uri + ".gpg"}}
	}
	tests := []struct {
		name      string
		in        []Source
		backports bool
		want      []string // uri and suites
		err       string
	}{
		{
			name: "backports are added where the release is", backports: true,
			in: []Source{source("sec", "bookworm-security", "main"), source("deb", "bookworm bookworm-updates", "main contrib"),
				source("other", "nodistro", "main")},
			want: []string{"sec bookworm-security", "deb bookworm bookworm-updates", "deb bookworm-backports"},
		},
		{
			name: "backports that are there already", backports: true,
			in:   []Source{source("a", "bookworm bookworm-backports", "main")},
			want: []string{"a bookworm bookworm-backports"},
		},
		{
			name: "no backports wanted",
			in:   []Source{source("a", "bookworm bookworm-backports", "main")},
			want: []string{"a bookworm"},
		},
		{name: "only contrib", in: []Source{source("a", "bookworm", "contrib")}, err: `suite "bookworm"`},
		{name: "another release", in: []Source{source("a", "sid", "main")}, err: "no apt source"},
		{name: "nothing", err: "no apt source"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Select(tt.in, "bookworm", tt.backports)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var lines []string
			for _, s := range got {
				lines = append(lines, s.URIs[0]+" "+strings.Join(s.Suites, " "))
				if s.Options["signed-by"] != s.URIs[0]+".gpg" {
					t.Errorf("%s lost its key", s.URIs[0])
				}
			}
			if !reflect.DeepEqual(lines, tt.want) {
				t.Errorf("got %q, want %q", lines, tt.want)
			}
		})
	}
}

func FuzzSources(f *testing.F) {
	f.Add("deb [arch=amd64] http://m x main\n")
	f.Add("Types: deb\nURIs: http://m\nSuites: x\nSigned-By:\n a\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, parse := range []func() ([]Source, error){
			func() ([]Source, error) { return ParseList(strings.NewReader(text)) },
			func() ([]Source, error) { return ParseDeb822(strings.NewReader(text)) },
		} {
			sources, err := parse()
			if err != nil {
				continue
			}
			for _, s := range sources {
				if len(s.URIs) == 0 || len(s.Suites) == 0 {
					t.Fatalf("a source without URI or suite: %#v", s)
				}
			}
		}
	})
}
