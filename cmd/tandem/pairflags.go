package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tandem/lockstep/arbiter"
	"tandem/lockstep/link"
	"tandem/lockstep/pair"
	"tandem/vmm/control"
	"tandem/vmm/protect"
)

// pairFlags are the flags of a host's part of a pair, for run and for backup.
type pairFlags struct {
	guest, keys, arbiter, listen string
	peers                        []string
	heartbeat, heartbeatPeer     string
	release                      string
	detect                       time.Duration
	control, logFormat           string
	takeGuest                    bool
}

// defaultGuest is what a guest is called that was given no name.
const defaultGuest = "guest"

// Bounds of --detect. A host that is busy for less than the lower one must not seem dead.
const (
	minDetect = 100 * time.Millisecond
	maxDetect = time.Minute
)

// Values of --release and --log-format.
const (
	releaseReceived = "received"
	releaseVerified = "verified"
	logText         = "text"
	logJSON         = "json"
)

func (f *pairFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.guest, "guest", defaultGuest, "`name` of the guest, the same on all its hosts")
	flags.StringVar(&f.keys, "keys", "", "`folder` with this host's keys, from tandem keygen")
	flags.StringVar(&f.arbiter, "arbiter", "", "who decides which host goes on when they lose each other: `file:/FOLDER` on shared storage, etcd:http://HOST:2379[,...], or unsafe-none")
	flags.StringVar(&f.listen, "listen", "", "`[ADDR]:PORT` at which a peer's connection is taken")
	flags.StringVar(&f.heartbeat, "heartbeat", "", "local UDP `[ADDR]:PORT` of the second path, best on another network (default that of --listen, or any port)")
	flags.StringVar(&f.heartbeatPeer, "heartbeat-peer", "", "the peer's `ADDR:PORT` of the second path (default that of the connection that is dialled, or learned)")
	flags.StringVar(&f.release, "release", releaseReceived, "when output may leave: once the backup has `received` all that led to it, or verified it by executing it")
	flags.DurationVar(&f.detect, "detect", time.Duration(pair.DefaultConfig().DetectNS), "how long a peer may be silent on both paths before it is lost")
	flags.StringVar(&f.control, "control", "", "control `socket` for tandem status and tandem protect (default GUEST.sock in /run/tandem, or in $XDG_RUNTIME_DIR/tandem)")
	flags.StringVar(&f.logFormat, "log-format", logText, "how events are told on standard error: `text` or json")
}

// registerBackup adds what a primary has beside that.
func (f *pairFlags) registerBackup(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&f.peers, "backup", nil, "protect the guest: `ADDR:PORT` of the host where tandem backup listens; more with commas are tried in turn")
	cmd.Flags().BoolVar(&f.takeGuest, "take-guest", false, "start the guest anew although another host had it last: that host is fenced, and what was written there since is lost")
}

// registerPeer adds what a backup has beside that.
func (f *pairFlags) registerPeer(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&f.peers, "peer", nil, "`ADDR:PORT` that is dialled while there is no peer; may be repeated")
}

// given tells whether a command line of run asks for a guest that is, or can be, protected.
func (f *pairFlags) given(cmd *cobra.Command) (bool, error) {
	for _, name := range []string{"backup", "guest", "listen", "control"} {
		if cmd.Flags().Changed(name) {
			return true, nil
		}
	}
	for _, name := range []string{"keys", "arbiter", "heartbeat", "heartbeat-peer", "release", "detect", "log-format", "take-guest"} {
		if cmd.Flags().Changed(name) {
			return false, fmt.Errorf("--%s is for a guest that can be protected: name it with --guest, or its backup with --backup", name)
		}
	}
	return false, nil
}

// pairSpec is what the flags ask for, read and checked; nothing is opened yet.
type pairSpec struct {
	config  protect.Config // without what has to be opened
	arbiter arbiter.Spec
	control string // the socket
	// ownFolder says that the socket is in the program's own folder, which is made if it is not there.
	ownFolder bool
	json      bool // events in JSON
}

func (f *pairFlags) read() (*pairSpec, error) {
	s := &pairSpec{config: protect.Config{
		Guest: f.guest, Listen: f.listen, Peers: f.peers, Heartbeat: f.heartbeat, HeartbeatPeer: f.heartbeatPeer, Detect: f.detect, TakeGuest: f.takeGuest,
	}}
	if err := arbiter.CheckGuest(f.guest); err != nil {
		return nil, fmt.Errorf("--guest: %w", err)
	}
	for _, step := range []func(*pairFlags) error{s.readAddresses, s.readRules, s.readArbiter, s.readKeys, s.readControl} {
		if err := step(f); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *pairSpec) readAddresses(f *pairFlags) error {
	for _, a := range []struct {
		flag, value string
		local       bool
	}{
		{"--listen", f.listen, true}, {"--heartbeat", f.heartbeat, true}, {"--heartbeat-peer", f.heartbeatPeer, false},
	} {
		if a.value == "" {
			continue
		}
		if err := checkAddress(a.value, a.local); err != nil {
			return fmt.Errorf("%s %q: %w", a.flag, a.value, err)
		}
	}
	for _, peer := range f.peers {
		if err := checkAddress(peer, false); err != nil {
			return fmt.Errorf("peer %q: %w", peer, err)
		}
		if peer == f.listen {
			return fmt.Errorf("%s is where this host listens: name the other host's address", peer)
		}
	}
	c := &s.config
	if c.Heartbeat == "" {
		c.Heartbeat = f.listen
	}
	if c.Heartbeat == "" {
		c.Heartbeat = ":0"
	}
	return nil
}

// checkAddress checks ADDR:PORT. A local one may leave ADDR out, which is all addresses, and may take any port, 0.
func checkAddress(address string, local bool) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return errors.New("write ADDR:PORT, like 10.0.0.2:7400 or [fd00::2]:7400")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 && !local {
		return errors.New("the port is a number from 1 to 65535")
	}
	if host == "" && !local {
		return errors.New("the host is missing before the colon")
	}
	if strings.ContainsAny(host, " /,=") {
		return fmt.Errorf("%q is no host", host)
	}
	return nil
}

func (s *pairSpec) readRules(f *pairFlags) error {
	switch f.release {
	case releaseReceived:
		s.config.Rule = pair.RuleReceived
	case releaseVerified:
		s.config.Rule = pair.RuleVerified
	default:
		return fmt.Errorf("--release %q is unknown: give received or verified", f.release)
	}
	if f.detect < minDetect || f.detect > maxDetect {
		return fmt.Errorf("--detect %v: give a time from %v to %v", f.detect, minDetect, maxDetect)
	}
	switch f.logFormat {
	case logText, logJSON:
		s.json = f.logFormat == logJSON
		return nil
	}
	return fmt.Errorf("--log-format %q is unknown: give text or json", f.logFormat)
}

func (s *pairSpec) readArbiter(f *pairFlags) error {
	if f.arbiter == "" {
		return errors.New("--arbiter is missing: name file:/FOLDER on shared storage, etcd:http://HOST:2379, or unsafe-none for none at all")
	}
	var err error
	if s.arbiter, err = arbiter.ParseSpec(f.arbiter); err != nil {
		return fmt.Errorf("--%w", err) // it begins with the flag's name
	}
	s.config.UnsafeWithoutArbiter = s.arbiter.Kind == arbiter.SpecUnsafe
	return nil
}

func (s *pairSpec) readKeys(f *pairFlags) error {
	if f.keys == "" {
		return errors.New("--keys is missing: name this host's folder of keys, which tandem keygen makes")
	}
	var err error
	if s.config.Credentials, err = link.LoadCredentials(f.keys); err != nil {
		return fmt.Errorf("--keys: %w", err)
	}
	return nil
}

func (s *pairSpec) readControl(f *pairFlags) error {
	s.control = f.control
	if s.control == "" {
		folder, err := controlFolder()
		if err != nil {
			return err
		}
		s.control, s.ownFolder = filepath.Join(folder, f.guest+socketSuffix), true
	}
	return control.CheckPath(s.control)
}

const socketSuffix = ".sock"

// controlFolder is where control sockets are unless their user says otherwise.
func controlFolder() (string, error) {
	if os.Getuid() == 0 {
		return "/run/tandem", nil
	}
	runtime := os.Getenv("XDG_RUNTIME_DIR")
	if !filepath.IsAbs(runtime) {
		return "", errors.New("--control is missing, and there is no XDG_RUNTIME_DIR to put the control socket in: name a socket")
	}
	return filepath.Join(runtime, "tandem"), nil
}
