package usernet

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	dnsPort = 53
	// maxQueries bounds the queries under way. One more is not answered, and the guest asks again.
	maxQueries = 64
	// serverTimeout is how long each of the host's name servers is waited for.
	serverTimeout = 3 * time.Second
	// queryIdle ends a flow of queries.
	queryIdle = 15 * time.Second
	// maxResolvers is how many name servers are asked (resolv.conf(5), MAXNS).
	maxResolvers = 3
)

// systemResolvers reads the host's name servers each time: they change when the host changes its network.
func systemResolvers() []netip.AddrPort {
	text, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	return parseResolvers(text)
}

// parseResolvers takes the name servers from a resolv.conf(5).
func parseResolvers(text []byte) []netip.AddrPort {
	var all []netip.AddrPort
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() && len(all) < maxResolvers {
		f := strings.Fields(lines.Text())
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			all = append(all, netip.AddrPortFrom(a, dnsPort))
		}
	}
	return all
}

// answerQueries answers the queries of a flow until there has been none for a while.
func (n *Network) answerQueries(guest net.Conn) {
	stop := context.AfterFunc(n.ctx, func() { guest.Close() })
	defer stop()
	p := make([]byte, maxDatagram)
	for {
		_ = guest.SetReadDeadline(time.Now().Add(queryIdle))
		size, err := guest.Read(p)
		if err != nil {
			return
		}
		if !n.acquire(n.queries) {
			continue
		}
		query := bytes.Clone(p[:size])
		started := n.start(func() {
			defer n.free(n.queries)
			if answer := n.resolve(query); answer != nil {
				_, _ = guest.Write(answer)
			}
		})
		if !started {
			return
		}
	}
}

// resolve asks the host's name servers in turn. If none answers, the answer says so.
func (n *Network) resolve(query []byte) []byte {
	for _, server := range n.config.Resolvers() {
		if answer, err := n.exchange(server, query); err == nil {
			return answer
		}
	}
	return serverFailure(query)
}

var errWrongAnswer = errors.New("the answer is of another query")

// exchange hands a query to a server and returns the answer as it is.
func (n *Network) exchange(server netip.AddrPort, query []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(n.ctx, serverTimeout)
	defer cancel()
	conn, err := n.dial(ctx, "udp", server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	p := make([]byte, maxDatagram)
	size, err := conn.Read(p)
	if err != nil {
		return nil, err
	}
	if size < 2 || len(query) < 2 || !bytes.Equal(p[:2], query[:2]) {
		return nil, errWrongAnswer
	}
	return p[:size], nil
}

// serverFailure answers a query with SERVFAIL (RFC 1035 §4.1.1), or with nothing if it is none.
func serverFailure(query []byte) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil || h.Response {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	answer := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: h.ID, Response: true, OpCode: h.OpCode, RecursionDesired: h.RecursionDesired, RecursionAvailable: true,
			RCode: dnsmessage.RCodeServerFailure,
		},
		Questions: []dnsmessage.Question{q},
	}
	packed, err := answer.Pack()
	if err != nil {
		return nil
	}
	return packed
}
