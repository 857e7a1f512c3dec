// Package agent runs commands, moves files and opens connections inside a lab
// host, over one byte stream (in a lab, a virtio-serial port).
//
// Format: the server, inside the host, first sends one KindReply frame with a
// Hello. After it the stream carries yamux, the client opening one yamux stream
// for each request. On such a stream a frame is kind (1 byte), payload length
// (4 bytes, big-endian), payload; the first is a KindRequest. What follows:
//
//	exec    server: Reply{PID}, then KindData (stdout) and KindStderr, KindExit.
//	        client: KindData (stdin), KindEnd. Closing early kills the command.
//	put     client: KindData…, KindEnd; server: Reply.
//	get     server: Reply{Mode, Size}, KindData…, KindEnd.
//	dial    server: Reply; then KindData both ways, KindEnd for a half-close.
//	signal, resize, poweroff  server: Reply.
//
// KindError may stand wherever the server sends. Client and Server may be used
// by many goroutines at once.
package agent

import (
	"fmt"
	"io/fs"
	"syscall"
)

// ProtocolVersion is in the Hello; a client refuses another.
const ProtocolVersion = 1

// Op names a request.
type Op string

const (
	OpExec     Op = "exec"
	OpPut      Op = "put"
	OpGet      Op = "get"
	OpDial     Op = "dial"
	OpShare    Op = "share"
	OpSignal   Op = "signal"
	OpResize   Op = "resize"
	OpPowerOff Op = "poweroff"
)

// Hello is what the server says of its host before anything else.
type Hello struct {
	Protocol int    `json:"protocol"`
	Hostname string `json:"hostname"`
	Release  string `json:"release"` // kernel
	// KVMVersion is KVM_GET_API_VERSION's answer, 0 if there is none; KVMError
	// then says why.
	KVMVersion int    `json:"kvm_version"`
	KVMError   string `json:"kvm_error,omitempty"`
	// SetupErrors lists what failed while the host came up.
	SetupErrors []string `json:"setup_errors,omitempty"`
	// UptimeMS is the kernel's, in milliseconds.
	UptimeMS int64 `json:"uptime_ms"`
}

// Request opens a stream.
type Request struct {
	Op Op `json:"op"`

	// exec
	Args []string `json:"args,omitempty"` // program first
	Env  []string `json:"env,omitempty"`  // added to the agent's own
	Dir  string   `json:"dir,omitempty"`
	TTY  bool     `json:"tty,omitempty"`
	Rows uint16   `json:"rows,omitempty"` // exec with TTY, resize
	Cols uint16   `json:"cols,omitempty"`

	// put, get, share
	Path string `json:"path,omitempty"`
	Mode uint32 `json:"mode,omitempty"` // permission bits

	// dial
	Network string `json:"network,omitempty"` // "tcp", "unix", ...
	Address string `json:"address,omitempty"`

	// signal, resize
	PID    int `json:"pid,omitempty"`
	Signal int `json:"signal,omitempty"`
}

// Reply says that a request was taken.
type Reply struct {
	PID  int    `json:"pid,omitempty"`
	Mode uint32 `json:"mode,omitempty"`
	Size int64  `json:"size,omitempty"` // bytes
}

// Exit is how a command ended: by an exit code, or by a signal.
type Exit struct {
	Code   int `json:"code"`
	Signal int `json:"signal,omitempty"`
}

// ExitError reports a command that didn't end with status 0.
type ExitError struct{ Exit }

func (e *ExitError) Error() string {
	if e.Signal != 0 {
		return fmt.Sprintf("killed by signal %d (%s)", e.Signal, syscall.Signal(e.Signal))
	}
	return fmt.Sprintf("exit status %d", e.Code)
}

// ShellCode is the status that a shell would report: 128 + n for signal n.
func (e *ExitError) ShellCode() int {
	if e.Signal != 0 {
		return 128 + e.Signal
	}
	return e.Code
}

// RemoteError is a failure reported by the server.
type RemoteError struct{ Message string }

func (e *RemoteError) Error() string { return e.Message }

// permissions keeps a file mode's bits that travel.
func permissions(m fs.FileMode) uint32 { return uint32(m.Perm()) }
