package failover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"tandem/cmd/internal/lab"
	"tandem/cmd/internal/lab/agent"
	"tandem/cmd/internal/lab/ether"
	"tandem/cmd/internal/lab/outside"
	"tandem/vmm/protect"
)

// Config says what pair to make.
type Config struct {
	// Tandem and Agent are static builds of cmd/tandem and cmd/lab; empty builds them, which needs the Go toolchain and a
	// working directory inside the module.
	Tandem, Agent string
	Image         *Image
	// Memory is the guest's, as --memory takes it; "" is usually enough.
	Memory string
	// Flags are added to tandem's on both hosts.
	Flags []string
	Seed  uint64
	// Log gets progress lines. Nil discards them.
	Log io.Writer
	// KeepDir, if not empty, is where what the hosts said is left.
	KeepDir string
}

// Addresses on network 1, and ports of the hosts.
const (
	GuestAddress  = "10.77.1.50"
	ClientAddress = "10.77.1.100"
	RedisAddress  = GuestAddress + ":6379"
	IMAPAddress   = GuestAddress + ":143"

	prefixBits    = 24
	logPort       = 7400
	heartbeatPort = 7401
)

const (
	guestMAC      = "52:54:00:74:61:6e"
	defaultMemory = "160M"
	// folder is where a host has its files.
	folder = "/failover"
)

// Pair is a guest with two hosts.
type Pair struct {
	Lab    *lab.Lab
	Client *outside.Client
	// Sides are the hosts, h1 and h2.
	Sides [2]*Side

	cfg     Config
	arbiter string // as --arbiter takes it
	dir     string // of this machine: keys, the shared folder
}

// Open boots the hosts and prepares them. Nothing is started on them.
func Open(ctx context.Context, cfg Config) (_ *Pair, err error) {
	if cfg.Log == nil {
		cfg.Log = io.Discard
	}
	if cfg.Memory == "" {
		cfg.Memory = defaultMemory
	}
	p := &Pair{cfg: cfg, arbiter: "file:" + lab.SharePath}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if p.cfg.Tandem == "" {
		if p.cfg.Tandem, err = lab.BuildStatic(ctx, "tandem/cmd/tandem", "tandem"); err != nil {
			return nil, err
		}
	}
	if p.dir, err = os.MkdirTemp("", "failover-"); err != nil {
		return nil, err
	}
	if err := p.prepareFiles(ctx); err != nil {
		return nil, err
	}
	if err := p.boot(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// UseArbiter changes what tandem is started with from now on: --arbiter. A new pair's arbiter is a folder that both hosts
// share.
func (p *Pair) UseArbiter(spec string) { p.arbiter = spec }

// prepareFiles makes keys and the arbiter's folder, with tandem itself.
func (p *Pair) prepareFiles(ctx context.Context) error {
	if err := os.Mkdir(p.sharedDir(), 0o755); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"keygen", "--out", filepath.Join(p.dir, "keys"), "--hosts", "h1,h2"},
		{"arbiter", "init", p.sharedDir()},
	} {
		if out, err := exec.CommandContext(ctx, p.cfg.Tandem, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("tandem %s: %w: %s", args[0], err, out)
		}
	}
	return nil
}

func (p *Pair) sharedDir() string { return filepath.Join(p.dir, "shared") }

func (p *Pair) boot(ctx context.Context) (err error) {
	files := map[string]string{
		folder + "/tandem": p.cfg.Tandem, folder + "/vmlinuz": p.cfg.Image.Kernel, folder + "/initrd": p.cfg.Image.Initrd,
	}
	var hosts []lab.HostConfig
	for i, name := range []string{"h1", "h2"} {
		p.Sides[i] = &Side{pair: p, Name: name, number: i}
		hosts = append(hosts, lab.HostConfig{
			Name: name, Disks: []lab.Disk{{Path: p.cfg.Image.Root, ReadOnly: true}},
			Files: map[string]string{folder + "/keys/host.pem": filepath.Join(p.dir, "keys", name, "host.pem"), folder + "/keys/trust.pem": filepath.Join(p.dir, "keys", name, "trust.pem")},
		})
	}
	p.Lab, err = lab.Start(ctx, lab.Config{
		Hosts: hosts, Networks: 2, Files: files, Share: p.sharedDir(), Agent: p.cfg.Agent, Seed: p.cfg.Seed, Log: p.cfg.Log, KeepDir: p.cfg.KeepDir,
	})
	if err != nil {
		return err
	}
	for _, s := range p.Sides {
		s.host = p.Lab.Host(s.Name)
		if err := s.prepare(ctx); err != nil {
			return err
		}
	}
	p.Client, err = p.Lab.Client(1, netip.MustParsePrefix(fmt.Sprintf("%s/%d", ClientAddress, prefixBits)))
	return err
}

// Close ends the hosts at once and removes what the pair left.
func (p *Pair) Close() error {
	var err error
	if p.Lab != nil {
		err = p.Lab.Close()
	}
	if p.dir != "" {
		err = errors.Join(err, os.RemoveAll(p.dir))
	}
	return err
}

// Dial connects the client outside to an address on network 1.
func (p *Pair) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return p.Client.DialContext(ctx, network, address)
}

// Part cuts the hosts off from each other, on both networks, or joins them again. What is outside reaches both.
func (p *Pair) Part(cut bool) error {
	for n := range p.Lab.Networks() {
		if err := p.Lab.Switch(n).SetPair(p.Sides[0].Name, p.Sides[1].Name, ether.Link{Cut: cut}); err != nil {
			return err
		}
	}
	return nil
}

// Other is the other host of a pair.
func (p *Pair) Other(s *Side) *Side { return p.Sides[1-s.number] }

// pollEvery is how often what is waited for is looked at. Each look costs an emulated host some ms.
const pollEvery = 250 * time.Millisecond

// AwaitServers waits until both of the guest's servers take connections.
func (p *Pair) AwaitServers(ctx context.Context) error {
	for _, address := range []string{IMAPAddress, RedisAddress} {
		for {
			attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
			conn, err := p.Dial(attempt, "tcp", address)
			cancel()
			if err == nil {
				conn.Close()
				break
			}
			if err := p.wait(ctx, fmt.Sprintf("%s does not answer (%v)", address, err)); err != nil {
				return err
			}
		}
	}
	return nil
}

// wait lets pollEvery pass. It fails if the context ends, or the guest's last process.
func (p *Pair) wait(ctx context.Context, what string) error {
	select {
	case <-time.After(pollEvery):
	case <-ctx.Done():
		return fmt.Errorf("%s: %w%s", what, context.Cause(ctx), p.said())
	}
	if !p.Sides[0].Running() && !p.Sides[1].Running() {
		return fmt.Errorf("%s: no tandem is running%s", what, p.said())
	}
	return nil
}

// said is the end of what tandem said on both hosts.
func (p *Pair) said() string {
	text := ""
	for _, s := range p.Sides {
		text += fmt.Sprintf("\n--- tandem on %s ---\n%s", s.Name, s.Said())
	}
	return text
}

// Await polls a side's status until it is as wanted.
func (p *Pair) Await(ctx context.Context, s *Side, what string, done func(*protect.Status) bool) (*protect.Status, error) {
	for {
		status, err := s.Status(ctx)
		if err == nil && done(status) {
			return status, nil
		}
		state := fmt.Sprint(err)
		if err == nil {
			state = fmt.Sprintf("%s, %s", status.Role, status.State)
		}
		if err := p.wait(ctx, fmt.Sprintf("%s on %s (%s)", what, s.Name, state)); err != nil {
			return nil, err
		}
	}
}

// AwaitProtected waits until the guest on s has a backup that could take over.
func (p *Pair) AwaitProtected(ctx context.Context, s *Side) (*protect.Status, error) {
	return p.Await(ctx, s, "the guest is not protected", Protected)
}

// Protected tells that a primary has a backup that could take over.
func Protected(s *protect.Status) bool { return s.Role == "primary" && s.State == "protected" }

// AwaitTakeover waits until the guest runs on s, which was its backup.
func (p *Pair) AwaitTakeover(ctx context.Context, s *Side) (*protect.Status, error) {
	return p.Await(ctx, s, "the backup has not taken the guest over", func(st *protect.Status) bool {
		return st.Role == "primary" && st.LastFailover != nil
	})
}

// script makes an agent's command of a shell script.
func script(text string, out io.Writer) agent.Cmd {
	return agent.Cmd{Args: []string{"sh", "-ec", text}, Stdout: out, Stderr: out}
}
