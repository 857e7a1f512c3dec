package arbiter

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
)

var errDead = errors.New("the host is dead")

// node is a file's content.
type node struct {
	data   []byte
	synced []byte
}

// disk is shared storage in memory that tells what has been synced from what would be lost with its power.
type disk struct {
	now, durable map[string]*node // by path; a folder is a nil node
}

func newDisk() *disk {
	return &disk{now: map[string]*node{"/": nil}, durable: map[string]*node{"/": nil}}
}

// loseElectricity keeps what was synced, and of the rest whatever chance keeps.
func (d *disk) loseElectricity(rng *rand.Rand) {
	for path, n := range d.now {
		if _, kept := d.durable[path]; !kept && rng.IntN(2) == 0 {
			d.durable[path] = n
		}
	}
	for path := range d.durable {
		if _, still := d.now[path]; !still && rng.IntN(2) == 0 {
			delete(d.durable, path)
		}
	}
	d.now = map[string]*node{}
	for path, n := range d.durable {
		if _, ok := d.durable[filepath.Dir(path)]; !ok {
			delete(d.durable, path) // its folder is gone
			continue
		}
		if n != nil && len(n.data) > len(n.synced) {
			n.data = n.data[:len(n.synced)+rng.IntN(len(n.data)-len(n.synced)+1)]
		}
		d.now[path] = n
	}
}

// host is a host's way to the disk. It dies at a step: before it, or after it was done but not answered.
type host struct {
	disk  *disk
	steps int // taken
	die   int // at which step; 0 never
	after bool
}

// step tells whether to do an operation, and what to answer it with.
func (h *host) step() (do bool, err error) {
	h.steps++
	switch {
	case h.die == 0 || h.steps < h.die:
		return true, nil
	case h.steps == h.die && h.after:
		return true, errDead
	}
	return false, errDead
}

type hostFile struct {
	host *host
	node *node
}

func (h *host) add(path string, n *node) error {
	if _, ok := h.disk.now[filepath.Dir(path)]; !ok {
		return fs.ErrNotExist
	}
	if _, taken := h.disk.now[path]; taken {
		return fs.ErrExist
	}
	h.disk.now[path] = n
	return nil
}

func (h *host) Create(path string) (storedFile, error) {
	do, dead := h.step()
	n := &node{}
	if do {
		if err := h.add(path, n); err != nil {
			return nil, err
		}
	}
	if dead != nil {
		return nil, dead
	}
	return &hostFile{h, n}, nil
}

func (f *hostFile) Write(b []byte) (int, error) {
	do, dead := f.host.step()
	if do {
		f.node.data = append(f.node.data, b...)
	}
	return len(b), dead
}

func (f *hostFile) Sync() error {
	do, dead := f.host.step()
	if do {
		f.node.synced = append([]byte(nil), f.node.data...)
	}
	return dead
}

func (f *hostFile) Close() error {
	_, dead := f.host.step()
	return dead
}

func (h *host) Link(from, to string) error {
	do, dead := h.step()
	if do {
		n, ok := h.disk.now[from]
		if !ok {
			return fs.ErrNotExist
		}
		if err := h.add(to, n); err != nil {
			return err
		}
	}
	return dead
}

func (h *host) Remove(path string) error {
	do, dead := h.step()
	if do {
		delete(h.disk.now, path)
	}
	return dead
}

func (h *host) Mkdir(path string) error {
	do, dead := h.step()
	if do {
		if err := h.add(path, nil); err != nil {
			return err
		}
	}
	return dead
}

func (h *host) SyncDir(folder string) error {
	do, dead := h.step()
	if !do {
		return dead
	}
	for path, n := range h.disk.now {
		if filepath.Dir(path) == folder {
			h.disk.durable[path] = n
		}
	}
	for path := range h.disk.durable {
		if _, still := h.disk.now[path]; !still && filepath.Dir(path) == folder {
			delete(h.disk.durable, path)
		}
	}
	return dead
}

func (h *host) ReadFile(path string, limit int) ([]byte, error) {
	if _, dead := h.step(); dead != nil {
		return nil, dead
	}
	n, ok := h.disk.now[path]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return append([]byte(nil), n.data...), nil
}

func (h *host) Names(folder string, limit int) ([]string, error) {
	if _, dead := h.step(); dead != nil {
		return nil, dead
	}
	if _, ok := h.disk.now[folder]; !ok {
		return nil, fs.ErrNotExist
	}
	var names []string
	for path := range h.disk.now {
		if filepath.Dir(path) == folder {
			names = append(names, filepath.Base(path))
		}
	}
	return names, nil
}
