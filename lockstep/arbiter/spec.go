package arbiter

import (
	"fmt"
	"path/filepath"
	"strings"
)

// Spec is an arbiter as named on a command line.
type Spec struct {
	Kind      string // SpecFile, SpecEtcd or SpecUnsafe
	Folder    string // of SpecFile
	Endpoints []string
}

// The kinds of arbiter.
const (
	SpecFile   = "file"
	SpecEtcd   = "etcd"
	SpecUnsafe = "unsafe-none"
)

// maxEndpoints bounds the members of an etcd cluster: more than seven are not recommended to anyone.
const maxEndpoints = 16

// ParseSpec reads "file:/shared/folder", "etcd:http://host:2379,http://…" or "unsafe-none".
func ParseSpec(s string) (Spec, error) {
	kind, rest, _ := strings.Cut(s, ":")
	switch {
	case s == SpecUnsafe:
		return Spec{Kind: SpecUnsafe}, nil
	case kind == SpecFile && filepath.IsAbs(rest):
		return Spec{Kind: SpecFile, Folder: filepath.Clean(rest)}, nil
	case kind == SpecEtcd:
		endpoints := strings.Split(rest, ",")
		for _, e := range endpoints {
			if host, ok := cutScheme(e); !ok || host == "" || len(endpoints) > maxEndpoints {
				return Spec{}, fmt.Errorf("arbiter %q: %q is no etcd address: write etcd:http://HOST:2379, or https, with commas between", s, e)
			}
		}
		return Spec{Kind: SpecEtcd, Endpoints: endpoints}, nil
	}
	return Spec{}, fmt.Errorf("arbiter %q: name file:/FOLDER on shared storage, etcd:http://HOST:2379, or %s", s, SpecUnsafe)
}

func cutScheme(endpoint string) (host string, ok bool) {
	if host, ok = strings.CutPrefix(endpoint, "http://"); ok {
		return host, true
	}
	return strings.CutPrefix(endpoint, "https://")
}
