package debian

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

// Source is one entry of apt's package sources, whichever of the two formats
// it was written in (sources.list(5)).
type Source struct {
	Types      []string // "deb", "deb-src"
	URIs       []string
	Suites     []string
	Components []string
	// Options holds the remaining fields by their deb822 name in lower case
	// ("signed-by", "trusted", "architectures", ...). A value that spans lines,
	// such as an embedded key, keeps its line breaks.
	Options map[string]string
}

// oneLineOptions maps the option names of the one-line format to the deb822
// field names where lower-casing is not enough (sources.list(5), "Options").
var oneLineOptions = map[string]string{
	"arch":   "architectures",
	"lang":   "languages",
	"target": "targets",
}

// ParseList reads the one-line format ("deb [opt=val] uri suite comp...").
// Lines that are empty, comments or of another type are left out.
func ParseList(r io.Reader) ([]Source, error) {
	var out []Source
	sc := bufio.NewScanner(r)
	for n := 1; sc.Scan(); n++ {
		line, _, _ := strings.Cut(sc.Text(), "#")
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		s, err := parseListLine(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		out = append(out, s)
	}
	return out, sc.Err()
}

func parseListLine(line string) (Source, error) {
	kind, rest, _ := strings.Cut(line, " ")
	if k, r, ok := strings.Cut(line, "\t"); ok && len(k) < len(kind) {
		kind, rest = k, r
	}
	if kind != "deb" && kind != "deb-src" {
		return Source{}, fmt.Errorf("unknown source type %q", kind)
	}
	s := Source{Types: []string{kind}, Options: map[string]string{}}
	rest = strings.TrimSpace(rest)
	if strings.HasPrefix(rest, "[") {
		opts, after, ok := strings.Cut(rest[1:], "]")
		if !ok {
			return Source{}, errors.New("options without a closing bracket")
		}
		for _, o := range strings.Fields(opts) {
			key, val, ok := strings.Cut(o, "=")
			if !ok {
				return Source{}, fmt.Errorf("option %q has no value", o)
			}
			key = strings.ToLower(strings.TrimRight(key, "+-"))
			if long, ok := oneLineOptions[key]; ok {
				key = long
			}
			s.Options[key] = strings.ReplaceAll(val, ",", " ")
		}
		rest = after
	}
	f := strings.Fields(rest)
	if len(f) < 2 {
		return Source{}, errors.New("a source needs a URI and a suite")
	}
	s.URIs, s.Suites, s.Components = f[:1], f[1:2], f[2:]
	return s, nil
}

// ParseDeb822 reads the stanza format of *.sources files. Stanzas switched off
// with "Enabled: no" are left out.
func ParseDeb822(r io.Reader) ([]Source, error) {
	var out []Source
	fields := map[string]string{}
	last := ""
	flush := func() error {
		defer func() { fields, last = map[string]string{}, "" }()
		if len(fields) == 0 {
			return nil
		}
		s, on, err := stanza(fields)
		if err == nil && on {
			out = append(out, s)
		}
		return err
	}
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for n := 1; sc.Scan(); n++ {
		line := sc.Text()
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			if err := flush(); err != nil {
				return nil, fmt.Errorf("stanza before line %d: %w", n, err)
			}
		case line[0] == ' ' || line[0] == '\t':
			if last == "" {
				return nil, fmt.Errorf("line %d: continuation of no field", n)
			}
			fields[last] += "\n" + line
		default:
			key, val, ok := strings.Cut(line, ":")
			if !ok {
				return nil, fmt.Errorf("line %d: no colon in %q", n, line)
			}
			last = strings.ToLower(strings.TrimSpace(key))
			fields[last] = strings.TrimSpace(val)
		}
	}
	if err := sc.Err(); err != nil {
		return nil, err
	}
	return out, flush()
}

func stanza(fields map[string]string) (s Source, on bool, err error) {
	s = Source{
		Types:      strings.Fields(fields["types"]),
		URIs:       strings.Fields(fields["uris"]),
		Suites:     strings.Fields(fields["suites"]),
		Components: strings.Fields(fields["components"]),
		Options:    map[string]string{},
	}
	if len(s.Types) == 0 || len(s.URIs) == 0 || len(s.Suites) == 0 {
		return s, false, errors.New("a source needs Types, URIs and Suites")
	}
	for k, v := range fields {
		switch k {
		case "types", "uris", "suites", "components", "enabled":
		default:
			s.Options[k] = v
		}
	}
	switch strings.ToLower(fields["enabled"]) {
	case "no", "false", "without", "off", "disable", "0":
		return s, false, nil
	}
	return s, true, nil
}

// Write prints the sources as deb822 stanzas.
func Write(w io.Writer, sources []Source) error {
	for _, s := range sources {
		fmt.Fprintf(w, "Types: %s\nURIs: %s\nSuites: %s\n", strings.Join(s.Types, " "),
			strings.Join(s.URIs, " "), strings.Join(s.Suites, " "))
		if len(s.Components) > 0 {
			fmt.Fprintf(w, "Components: %s\n", strings.Join(s.Components, " "))
		}
		keys := make([]string, 0, len(s.Options))
		for k := range s.Options {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		for _, k := range keys {
			fmt.Fprintf(w, "%s: %s\n", k, s.Options[k])
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
	}
	return nil
}

// SystemSources reads every source of the machine below etcApt (normally
// "/etc/apt"): sources.list, and sources.list.d/*.list and *.sources.
func SystemSources(etcApt string) ([]Source, error) {
	var out []Source
	paths := []string{filepath.Join(etcApt, "sources.list")}
	for _, pattern := range []string{"*.list", "*.sources"} {
		m, err := filepath.Glob(filepath.Join(etcApt, "sources.list.d", pattern))
		if err != nil {
			return nil, err
		}
		paths = append(paths, m...)
	}
	for _, p := range paths {
		s, err := readSources(p)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading apt source %s: %w", p, err)
		}
		out = append(out, s...)
	}
	return out, nil
}

func readSources(path string) ([]Source, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if strings.HasSuffix(path, ".sources") {
		return ParseDeb822(f)
	}
	return ParseList(f)
}

// Select keeps what the lab needs of a machine's sources: binary packages,
// component main, of the release named codename, its updates and its security
// suite. If backports is set and no source has that suite yet, it is added at
// the URIs that carry the release itself: that is where Debian publishes it.
func Select(all []Source, codename string, backports bool) ([]Source, error) {
	want := []string{codename, codename + "-updates", codename + "-security", codename + "/updates"}
	backportSuite := codename + "-backports"
	if backports {
		want = append(want, backportSuite)
	}
	var out []Source
	release, haveBackports := -1, false
	for _, s := range all {
		if !slices.Contains(s.Types, "deb") {
			continue
		}
		if len(s.Components) > 0 && !slices.Contains(s.Components, "main") {
			continue
		}
		suites := keep(s.Suites, want)
		if len(suites) == 0 {
			continue
		}
		s.Types, s.Suites, s.Components = []string{"deb"}, suites, []string{"main"}
		haveBackports = haveBackports || slices.Contains(suites, backportSuite)
		out = append(out, s)
		if release < 0 && slices.Contains(suites, codename) {
			release = len(out) - 1
		}
	}
	if release < 0 {
		return nil, fmt.Errorf("no apt source of this machine has suite %q with component main: add Debian's own archive to /etc/apt/sources.list.d", codename)
	}
	if backports && !haveBackports {
		b := out[release]
		b.Suites = []string{backportSuite}
		out = append(out, b)
	}
	return out, nil
}

func keep(have, want []string) []string {
	var out []string
	for _, s := range have {
		if slices.Contains(want, s) {
			out = append(out, s)
		}
	}
	return out
}
