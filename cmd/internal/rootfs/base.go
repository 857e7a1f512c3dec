package rootfs

import (
	"fmt"
	"io/fs"
	"strings"
)

// basePackages are in every image: a shell with tools and an init, the directory layout, the static users, the names of
// services.
var basePackages = []string{"base-files", "base-passwd", "busybox-static", "netbase"}

// unwanted is dropped from every image: nothing in it is ever run, and no one reads manuals there. Licences stay.
var unwanted = []string{"usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian", "usr/share/bug"}

// scripts are the builder's own programs, in /usr/lib/tandem.
var scripts = []string{"boot", "parameter", "network", "dhcp", "service", "announce", "shutdown"}

// configureBase does what the maintainer scripts of the base packages would, and gives the image its init.
func (t *tree) configureBase(hostname string, applets []string, chosen []recipe) error {
	for _, dir := range unwanted {
		if err := t.removeAll(dir); err != nil {
			return err
		}
	}
	if err := t.configureDirs(); err != nil {
		return err
	}
	for _, applet := range applets {
		if !t.has(applet) {
			if err := t.symlink(applet, "/usr/bin/busybox", 0, 0); err != nil {
				return err
			}
		}
	}
	for _, s := range scripts {
		if err := t.text("usr/lib/tandem/"+s, 0o755, builtin(s)); err != nil {
			return err
		}
	}
	if err := t.configureAccounts(chosen); err != nil {
		return err
	}
	var ports strings.Builder
	for _, r := range chosen {
		fmt.Fprintf(&ports, "%s %d\n", r.service.name, r.service.port)
	}
	texts := map[string]string{
		"etc/inittab":      inittab(chosen),
		"etc/tandem/ports": ports.String(),
		"etc/hostname":     hostname + "\n",
		"etc/hosts":        "127.0.0.1 localhost\n127.0.1.1 " + hostname + "\n::1 localhost ip6-localhost ip6-loopback\n",
		"etc/fstab":        "# The root is mounted by the initramfs.\n",
		"etc/profile":      builtin("profile"),
		"etc/resolv.conf":  "",
	}
	if source := "usr/share/base-files/nsswitch.conf"; t.has(source) {
		text, err := t.read(source)
		if err != nil {
			return err
		}
		texts["etc/nsswitch.conf"] = text
	}
	for name, text := range texts {
		if err := t.text(name, 0o644, text); err != nil {
			return err
		}
	}
	return nil
}

// configureDirs makes the directories that are there without any package's file in them.
func (t *tree) configureDirs() error {
	for _, dir := range []string{"dev", "proc", "sys", "run", "mnt", "srv", "etc/tandem/services", "var/lib", "var/log", "var/cache", "var/mail"} {
		if err := t.mkdir(dir, 0o755, 0, 0); err != nil {
			return err
		}
	}
	if err := t.mkdir("root", 0o700, 0, 0); err != nil {
		return err
	}
	for _, dir := range []string{"tmp", "var/tmp"} {
		if err := t.mkdir(dir, fs.ModeSticky|0o777, 0, 0); err != nil {
			return err
		}
	}
	if !t.has("var/run") {
		return t.symlink("var/run", "/run", 0, 0)
	}
	return nil
}

// configureAccounts writes /etc/passwd and its like from Debian's static users and those of the recipes. Nobody has a
// password: root's shell is on the console.
func (t *tree) configureAccounts(chosen []recipe) error {
	passwd, err := t.read("usr/share/base-passwd/passwd.master")
	if err != nil {
		return fmt.Errorf("package base-passwd has no list of users: %w", err)
	}
	group, err := t.read("usr/share/base-passwd/group.master")
	if err != nil {
		return fmt.Errorf("package base-passwd has no list of groups: %w", err)
	}
	passwd = strings.ReplaceAll(passwd, ":/bin/bash\n", ":/bin/sh\n")
	for _, r := range chosen {
		for _, a := range r.accounts {
			passwd += fmt.Sprintf("%s:*:%d:%d::%s:/usr/sbin/nologin\n", a.name, a.id, a.id, a.home)
			group += fmt.Sprintf("%s:*:%d:\n", a.name, a.id)
		}
	}
	if err := t.text("etc/passwd", 0o644, passwd); err != nil {
		return err
	}
	return t.text("etc/group", 0o644, group)
}

// inittab is the table of busybox's init (its examples/inittab).
func inittab(chosen []recipe) string {
	var b strings.Builder
	b.WriteString("::sysinit:/usr/lib/tandem/boot\n")
	for _, r := range chosen {
		fmt.Fprintf(&b, "::respawn:/usr/lib/tandem/service %s\n", r.service.name)
	}
	b.WriteString("::once:/usr/lib/tandem/announce\n")
	b.WriteString("::respawn:/usr/bin/cttyhack /bin/sh -l\n")
	b.WriteString("::ctrlaltdel:/usr/sbin/reboot\n")
	b.WriteString("::shutdown:/usr/lib/tandem/shutdown\n")
	return b.String()
}
