package netdev

import (
	"log/slog"
	"sync"
)

// Bounds of what waits for a back end to take it.
const (
	maxQueuedPackets = 1024
	maxQueuedBytes   = 2 << 20
)

// linkState reports once that a network was lost, and once that it is back.
type linkState struct {
	log  *slog.Logger
	name string

	mu   sync.Mutex
	down bool
}

func (l *linkState) lost(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.down {
		l.down = true
		l.log.Warn("network is down: what the guest sends is dropped", "network", l.name, "cause", err)
	}
}

func (l *linkState) back() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		l.down = false
		l.log.Info("network is back", "network", l.name)
	}
}
