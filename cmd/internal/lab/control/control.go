// Package control lets other processes use a lab that one process keeps
// running, over a unix socket that only its user can open.
//
// Format: a connection carries one request: a frame of the agent's
// (agent.KindRequest) with the JSON of a Request, answered by agent.KindReply
// with the JSON of a Status, or agent.KindError with a message. After a request
// OpAttach is granted, by an empty reply, the connection is the host's agent
// (agent.Connect).
package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"tandem/cmd/internal/lab"
	"tandem/cmd/internal/lab/agent"
	"tandem/cmd/internal/lab/ether"
)

// Op names a request.
type Op string

const (
	OpStatus Op = "status"
	OpAttach Op = "attach" // Host
	OpKill   Op = "kill"   // Host
	OpFreeze Op = "freeze" // Host
	OpThaw   Op = "thaw"   // Host
	OpBoot   Op = "boot"   // Host
	OpLink   Op = "link"   // Change
	OpDown   Op = "down"
)

// Request asks for one thing.
type Request struct {
	Op     Op     `json:"op"`
	Host   string `json:"host,omitempty"`
	Change Change `json:"change"`
}

// Change says what to change on networks. Fields that are nil stay as they are.
type Change struct {
	// Network is the network's number from 0; nil is all of them.
	Network *int `json:"network,omitempty"`
	// Hosts are none for every host's port, one for that host's, two for what
	// is between the two.
	Hosts  []string `json:"hosts,omitempty"`
	OneWay bool     `json:"one_way,omitempty"` // from Hosts[0] to Hosts[1] only
	// Heal takes everything away first; without hosts, between all pairs too.
	Heal              bool           `json:"heal,omitempty"`
	Cut               *bool          `json:"cut,omitempty"`
	Drop              *float64       `json:"drop,omitempty"`
	Delay             *time.Duration `json:"delay,omitempty"`
	RateBitsPerSecond *int64         `json:"rate_bits_per_second,omitempty"`
}

// Apply returns l as the change leaves it.
func (c Change) Apply(l ether.Link) ether.Link {
	if c.Heal {
		l = ether.Link{}
	}
	if c.Cut != nil {
		l.Cut = *c.Cut
	}
	if c.Drop != nil {
		l.Drop = *c.Drop
	}
	if c.Delay != nil {
		l.Delay = *c.Delay
	}
	if c.RateBitsPerSecond != nil {
		l.RateBitsPerSecond = *c.RateBitsPerSecond
	}
	return l
}

// Status describes a lab.
type Status struct {
	PID      int       `json:"pid"` // of the process that keeps it
	Hosts    []Host    `json:"hosts"`
	Networks []Network `json:"networks"`
}

// Host describes a host.
type Host struct {
	Name      string   `json:"name"`
	Alive     bool     `json:"alive"`
	Frozen    bool     `json:"frozen,omitempty"`
	PID       int      `json:"pid"`
	Addresses []string `json:"addresses"` // by network
	BootMS    int64    `json:"boot_ms"`
	Console   string   `json:"console"` // path of the log
}

// Network describes a switch.
type Network struct {
	Ports []ether.PortState `json:"ports"`
	Pairs []ether.PairState `json:"pairs,omitempty"` // that aren't whole
}

// maxSocketPathBytes is what sockaddr_un holds, less its ending zero (unix(7)).
const maxSocketPathBytes = 107

const socketPrefix = "socket-"

// SocketPath returns where the lab of that name listens.
func SocketPath(name string) (string, error) {
	if name == "" || filepath.Base(name) != name || name == "." || name == ".." {
		return "", fmt.Errorf("%q can't be a lab's name", name)
	}
	dir, err := lab.RunDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, socketPrefix+name)
	if len(path) > maxSocketPathBytes {
		return "", fmt.Errorf("the socket's path %s is too long: use a shorter name or TMPDIR", path)
	}
	return path, nil
}

// Call makes a request other than OpAttach of the lab that listens at path.
func Call(path string, req Request) (Status, error) {
	conn, b, err := ask(path, req)
	if err != nil {
		return Status{}, err
	}
	defer conn.Close()
	var st Status
	if len(b) > 0 {
		err = json.Unmarshal(b, &st)
	}
	return st, err
}

// Attach connects to a host of the lab that listens at path.
func Attach(path, host string) (*agent.Client, error) {
	conn, _, err := ask(path, Request{Op: OpAttach, Host: host})
	if err != nil {
		return nil, err
	}
	c, err := agent.Connect(conn)
	if err != nil {
		conn.Close()
	}
	return c, err
}

// ErrNotUp says that no lab of a name is running.
var ErrNotUp = errors.New("no lab is up")

func ask(path string, req Request) (net.Conn, []byte, error) {
	conn, err := net.Dial("unix", path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, nil, fmt.Errorf("%w under the name %q: start one with \"lab up\"", ErrNotUp, strings.TrimPrefix(filepath.Base(path), socketPrefix))
	}
	if err != nil {
		return nil, nil, err
	}
	b, err := exchange(conn, req)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, b, nil
}

func exchange(conn io.ReadWriter, req Request) ([]byte, error) {
	b, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	if err := agent.WriteFrame(conn, agent.KindRequest, b); err != nil {
		return nil, err
	}
	k, b, err := agent.ReadFrame(conn)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the lab went away: %w", err)
	case k == agent.KindError:
		return nil, &agent.RemoteError{Message: string(b)}
	case k != agent.KindReply:
		return nil, fmt.Errorf("the lab answered with a frame of kind %d", k)
	}
	return b, nil
}
