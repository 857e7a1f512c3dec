package redischeck

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// fakeServer speaks as much of Redis's protocol (RESP2) as the check needs, and can be told to misbehave.
type fakeServer struct {
	address string

	mu     sync.Mutex
	texts  map[string]string
	lists  map[string][]string
	served int
	// loading is how many requests more are refused because the server is loading.
	loading int
	// intercept, if not nil, sees each request before it is done and tells how often it is done. It holds the lock.
	intercept func(args []string) (times int)
	conns     []net.Conn
}

func startFake(t *testing.T) *fakeServer {
	t.Helper()
	f := &fakeServer{texts: map[string]string{}, lists: map[string][]string{}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.address = listener.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { f.serve(conn) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		f.cutAll()
		serving.Wait()
	})
	return f
}

func (f *fakeServer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		f.conns = append(f.conns, conn)
	}
	return conn, err
}

func (f *fakeServer) cutAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		_ = c.Close()
	}
}

// saved is the server's state at an instant.
type saved struct {
	texts map[string]string
	lists map[string][]string
}

func (f *fakeServer) save() saved { return saved{maps.Clone(f.texts), maps.Clone(f.lists)} }

func (f *fakeServer) restore(s saved) { f.texts, f.lists = maps.Clone(s.texts), maps.Clone(s.lists) }

func (f *fakeServer) serve(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	for {
		args, err := readRequest(r)
		if err != nil {
			return
		}
		if _, err := io.WriteString(conn, f.answer(args)); err != nil {
			return
		}
	}
}

func readRequest(r *bufio.Reader) ([]string, error) {
	count, err := readLength(r, '*')
	if err != nil {
		return nil, err
	}
	args := make([]string, count)
	for i := range args {
		n, err := readLength(r, '$')
		if err != nil {
			return nil, err
		}
		b := make([]byte, n+2)
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, err
		}
		args[i] = string(b[:n])
	}
	return args, nil
}

func readLength(r *bufio.Reader, kind byte) (int, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return 0, err
	}
	if line[0] != kind {
		return 0, fmt.Errorf("line %q", line)
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}

func (f *fakeServer) answer(args []string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.served++
	if f.loading > 0 {
		f.loading--
		return "-LOADING Redis is loading the dataset in memory\r\n"
	}
	times := 1
	if f.intercept != nil {
		times = f.intercept(args)
	}
	answer := f.do(args, times == 0)
	for range times - 1 {
		answer = f.do(args, false)
	}
	return answer
}

// do carries a request out, or pretends to.
func (f *fakeServer) do(args []string, pretend bool) string {
	switch strings.ToUpper(args[0]) {
	case "PING":
		return "+PONG\r\n"
	case "SET":
		if !pretend {
			f.texts[args[1]] = args[2]
		}
		return "+OK\r\n"
	case "GET":
		v, ok := f.texts[args[1]]
		if !ok {
			return "$-1\r\n"
		}
		return bulk(v)
	case "INCR":
		n, _ := strconv.Atoi(f.texts[args[1]])
		if !pretend {
			f.texts[args[1]] = strconv.Itoa(n + 1)
		}
		return fmt.Sprintf(":%d\r\n", n+1)
	case "RPUSH":
		n := len(f.lists[args[1]])
		if !pretend {
			f.lists[args[1]] = append(slices.Clone(f.lists[args[1]]), args[2])
		}
		return fmt.Sprintf(":%d\r\n", n+1)
	case "LRANGE":
		out := fmt.Sprintf("*%d\r\n", len(f.lists[args[1]]))
		for _, v := range f.lists[args[1]] {
			out += bulk(v)
		}
		return out
	}
	return "-ERR unknown command\r\n"
}

func bulk(v string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(v), v) }
