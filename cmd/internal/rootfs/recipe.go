package rootfs

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

//go:embed files
var files embed.FS

// builtin returns a file of the builder's own.
func builtin(name string) string {
	b, err := files.ReadFile(path.Join("files", name))
	if err != nil {
		panic(err) // it is part of the program
	}
	return string(b)
}

// recipe does for a server what its package's maintainer scripts would.
type recipe struct {
	pkg      string // the package that calls for it
	accounts []account
	owned    []owned
	// configure writes configuration; it may be nil.
	configure func(*tree) error
	service   service
}

// account is a system user with a group of the same name and number.
type account struct {
	name string
	id   int
	home string
}

// owned is a directory that belongs to an account, or to root where user is "".
type owned struct {
	path string
	user string
	perm fs.FileMode
}

// service is a server as init runs it.
type service struct {
	name string
	port int
	// script is run by a shell, as root, and becomes the server, in the foreground.
	script string
}

// recipes has one entry per server. The ids are those of no Debian package (the policy leaves 100 to 999 to be given out
// when a package is installed, §9.2.2).
var recipes = []recipe{
	{
		pkg:      "redis-server",
		accounts: []account{{"redis", 900, "/var/lib/redis"}},
		owned:    []owned{{"var/lib/redis", "redis", 0o750}, {"var/log/redis", "redis", 0o750}},
		configure: func(t *tree) error {
			if err := t.chown("etc/redis/redis.conf", 0o640, 900); err != nil {
				return err
			}
			return t.text("etc/redis/tandem.conf", 0o644, builtin("redis-server.conf"))
		},
		service: service{
			name: "redis-server", port: 6379,
			script: "mkdir -p /run/redis\nchown redis:redis /run/redis\n" +
				"exec su -s /bin/sh -c 'exec /usr/bin/redis-server /etc/redis/tandem.conf' redis\n",
		},
	},
	{
		pkg: "dovecot-imapd",
		accounts: []account{
			{"dovecot", 901, "/usr/lib/dovecot"}, {"dovenull", 902, "/nonexistent"}, {"vmail", 903, "/srv/mail"},
		},
		owned: []owned{
			{"etc/dovecot", "", 0o755}, {"var/lib/dovecot", "", 0o755}, {"srv/mail", "vmail", 0o750}, {"srv/mail/tandem", "vmail", 0o700},
		},
		configure: configureDovecot,
		service:   service{name: "dovecot", port: 143, script: "exec /usr/sbin/dovecot -F\n"},
	},
}

// configureDovecot writes the configuration in the language of the version that was unpacked: 2.4 changed it.
func configureDovecot(t *tree) error {
	conf := "dovecot-2.3.conf"
	if v := t.versions["dovecot-core"]; v != "" && compareMinor(v, 2, 4) >= 0 {
		conf = "dovecot-2.4.conf"
	}
	if err := t.text("etc/dovecot/dovecot.conf", 0o644, builtin(conf)); err != nil {
		return err
	}
	return t.file("etc/dovecot/users", 0o640, 0, 901, strings.NewReader("tandem:{PLAIN}tandem::::::\n"))
}

// compareMinor compares the upstream part of a Debian version ("1:2.3.19.1+dfsg1-2") with major.minor.
func compareMinor(version string, major, minor int) int {
	if _, after, ok := strings.Cut(version, ":"); ok {
		version = after
	}
	var have [2]int
	_, _ = fmt.Sscanf(version, "%d.%d", &have[0], &have[1])
	return slices.Compare(have[:], []int{major, minor})
}

// apply carries out a recipe.
func (r *recipe) apply(t *tree) error {
	ids := map[string]int{"": 0}
	for _, a := range r.accounts {
		ids[a.name] = a.id
	}
	for _, o := range r.owned {
		if err := t.mkdir(o.path, o.perm, ids[o.user], ids[o.user]); err != nil {
			return err
		}
	}
	if r.configure != nil {
		if err := r.configure(t); err != nil {
			return err
		}
	}
	return t.text("etc/tandem/services/"+r.service.name, 0o755, "#!/bin/sh\n"+r.service.script)
}

// recipesFor picks the recipes that the unpacked packages call for.
func recipesFor(t *tree) []recipe {
	var out []recipe
	for _, r := range recipes {
		if t.versions[r.pkg] != "" {
			out = append(out, r)
		}
	}
	return out
}
