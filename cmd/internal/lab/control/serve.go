package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"

	"tandem/cmd/internal/lab"
	"tandem/cmd/internal/lab/agent"
)

// Listen opens the socket at path. A socket that a dead process left is
// replaced; one that a lab listens at is refused.
func Listen(path string) (net.Listener, error) {
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, errors.New(`a lab of that name is up already: "lab down" ends it`)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", path)
}

// Serve answers requests for l until it is asked to end the lab, or ctx ends.
// It closes the listener, not the lab.
func Serve(ctx context.Context, ln net.Listener, l *lab.Lab) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	defer ln.Close()
	s := &server{l: l, down: cancel}
	for {
		conn, err := ln.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("waiting for requests: %w", err)
		}
		go s.serve(ctx, conn)
	}
}

type server struct {
	l    *lab.Lab
	down func()
	net  sync.Mutex // one change of links at a time: each reads, then writes
}

func (s *server) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	k, b, err := agent.ReadFrame(conn)
	if err != nil || k != agent.KindRequest {
		return
	}
	var req Request
	if err = json.Unmarshal(b, &req); err == nil {
		err = s.handle(ctx, conn, req)
	}
	if err != nil {
		_ = agent.WriteFrame(conn, agent.KindError, []byte(err.Error()))
	}
}

func (s *server) handle(ctx context.Context, conn net.Conn, req Request) error {
	switch req.Op {
	case OpStatus:
	case OpLink:
		if err := s.change(req.Change); err != nil {
			return err
		}
	case OpBoot:
		if _, err := s.l.Boot(ctx, s.l.HostConfig(req.Host)); err != nil {
			return err
		}
	case OpDown:
		defer s.down()
	default:
		return s.handleHost(conn, req)
	}
	b, err := json.Marshal(s.status())
	if err != nil {
		return err
	}
	return agent.WriteFrame(conn, agent.KindReply, b)
}

func (s *server) handleHost(conn net.Conn, req Request) error {
	h, err := s.host(req.Host)
	if err != nil {
		return err
	}
	if !h.Alive() {
		return fmt.Errorf("host %s is dead; \"lab boot %[1]s\" brings it back", h.Name)
	}
	switch req.Op {
	case OpKill:
		h.Kill()
	case OpFreeze:
		h.Freeze()
	case OpThaw:
		h.Thaw()
	case OpAttach:
		if err := agent.WriteFrame(conn, agent.KindReply, nil); err != nil {
			return err
		}
		_ = agent.Proxy(h.Client, conn) // its end is the client's, who knows
		return nil
	default:
		return fmt.Errorf("unknown request %q", req.Op)
	}
	return agent.WriteFrame(conn, agent.KindReply, nil)
}

func (s *server) host(name string) (*lab.Host, error) {
	if h := s.l.Host(name); h != nil {
		return h, nil
	}
	return nil, fmt.Errorf("the lab has no host %q", name)
}

func (s *server) status() Status {
	st := Status{PID: os.Getpid()}
	for _, h := range s.l.Hosts() {
		hs := Host{Name: h.Name, Alive: h.Alive(), Frozen: h.Frozen(), PID: h.PID(), BootMS: h.BootTime.Milliseconds(), Console: s.l.ConsolePath(h.Name)}
		for n := range s.l.Networks() {
			hs.Addresses = append(hs.Addresses, h.Addr(n).String())
		}
		st.Hosts = append(st.Hosts, hs)
	}
	for n := range s.l.Networks() {
		st.Networks = append(st.Networks, Network{Ports: s.l.Switch(n).Ports(), Pairs: s.l.Switch(n).Pairs()})
	}
	return st
}

// change carries a Change out on one network, or on all.
func (s *server) change(c Change) error {
	if len(c.Hosts) > 2 {
		return errors.New("a link is between two hosts at most")
	}
	for _, name := range c.Hosts {
		if _, err := s.host(name); err != nil {
			return err
		}
	}
	s.net.Lock()
	defer s.net.Unlock()
	if c.Network != nil {
		if *c.Network < 0 || *c.Network >= s.l.Networks() {
			return fmt.Errorf("there is no network %d: the lab has %d, from 0", *c.Network, s.l.Networks())
		}
		return s.changeNetwork(*c.Network, c)
	}
	for n := range s.l.Networks() {
		if err := s.changeNetwork(n, c); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) changeNetwork(n int, c Change) error {
	sw := s.l.Switch(n)
	switch len(c.Hosts) {
	case 1:
		return sw.SetPort(c.Hosts[0], c.Apply(sw.PortLink(c.Hosts[0])))
	case 2:
		a, b := c.Hosts[0], c.Hosts[1]
		if a == b {
			return fmt.Errorf("a link is between two hosts, not %s and itself", a)
		}
		err := sw.SetOneWay(a, b, c.Apply(sw.PairLink(a, b)))
		if err != nil || c.OneWay {
			return err
		}
		return sw.SetOneWay(b, a, c.Apply(sw.PairLink(b, a)))
	}
	if c.Heal {
		sw.Heal()
	}
	for _, h := range s.l.Hosts() {
		if err := sw.SetPort(h.Name, c.Apply(sw.PortLink(h.Name))); err != nil {
			return err
		}
	}
	return nil
}
