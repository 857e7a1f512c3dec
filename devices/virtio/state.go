package virtio

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"tandem/devices"
)

// coreState is the state of a Core with its device.
type coreState struct {
	Status         uint8           `json:"status"`
	DriverFeatures uint64          `json:"driver_features"`
	DeviceSelect   uint32          `json:"device_select"`
	DriverSelect   uint32          `json:"driver_select"`
	QueueSelect    uint16          `json:"queue_select"`
	ISR            uint8           `json:"isr"`
	Generation     uint8           `json:"generation"`
	Failure        string          `json:"failure"`
	Queues         []queueState    `json:"queues"`
	Device         json.RawMessage `json:"device"`
}

type queueState struct {
	Size      uint16 `json:"size"`
	Ready     bool   `json:"ready"`
	Desc      uint64 `json:"desc"`
	Avail     uint64 `json:"avail"`
	Used      uint64 `json:"used"`
	NextAvail uint16 `json:"next_avail"`
	NextUsed  uint16 `json:"next_used"`
	Published uint16 `json:"published"`
	Quiet     bool   `json:"quiet"`
}

// SaveState implements devices.Stateful.
func (c *Core) SaveState() ([]byte, error) {
	device, err := json.Marshal(c.model.save())
	if err != nil {
		return nil, fmt.Errorf("virtio: state: %w", err)
	}
	s := coreState{
		Status: c.status, DriverFeatures: c.driverFeatures,
		DeviceSelect: c.deviceSelect, DriverSelect: c.driverSelect, QueueSelect: c.queueSelect,
		ISR: c.isr, Generation: c.generation, Failure: c.failure,
		Queues: []queueState{}, Device: device,
	}
	for i := range c.queues {
		q := &c.queues[i]
		s.Queues = append(s.Queues, queueState{q.size, q.ready, q.desc, q.avail, q.used,
			q.nextAvail, q.nextUsed, q.published, q.quiet})
	}
	return json.Marshal(s)
}

// LoadState implements devices.Stateful. It needs a device that was made with the same configuration. It does not drive
// the interrupt line: its level is part of the interrupt controller's state.
func (c *Core) LoadState(p []byte) error {
	var s coreState
	if err := devices.DecodeState(p, &s); err != nil {
		return fmt.Errorf("virtio: state: %w", err)
	}
	if err := c.checkState(&s); err != nil {
		return fmt.Errorf("virtio: state: %w", err)
	}
	queues := make([]queue, len(c.queues))
	for i, qs := range s.Queues {
		q := queue{
			mem: c.mem, max: c.queues[i].max,
			size: qs.Size, desc: qs.Desc, avail: qs.Avail, used: qs.Used,
			nextAvail: qs.NextAvail, nextUsed: qs.NextUsed, published: qs.Published, quiet: qs.Quiet,
		}
		if qs.Ready {
			if s.Status&statusFeaturesOK == 0 {
				return fmt.Errorf("virtio: state: queue %d is ready without FEATURES_OK", i)
			}
			q.eventIdx = s.DriverFeatures&featEventIdx != 0
			q.indirect = s.DriverFeatures&featIndirect != 0
			if err := q.enable(); err != nil {
				return fmt.Errorf("virtio: state: queue %d: %w", i, err)
			}
		}
		queues[i] = q
	}
	commit, err := c.model.load(s.Device, s.DriverFeatures, s.Queues)
	if err != nil {
		return fmt.Errorf("virtio: state: %w", err)
	}

	c.status, c.driverFeatures = s.Status, s.DriverFeatures
	c.deviceSelect, c.driverSelect, c.queueSelect = s.DeviceSelect, s.DriverSelect, s.QueueSelect
	c.isr, c.generation, c.failure = s.ISR, s.Generation, s.Failure
	c.queues = queues
	commit()
	return nil
}

// checkState reports what no device of this kind can have.
func (c *Core) checkState(s *coreState) error {
	switch {
	case len(s.Queues) != len(c.queues):
		return fmt.Errorf("%d queues where the device has %d", len(s.Queues), len(c.queues))
	case s.Status&^statusKnown != 0:
		return fmt.Errorf("status %#x has unknown bits", s.Status)
	case s.ISR&^(isrQueue|isrConfig) != 0:
		return fmt.Errorf("interrupt status %#x has unknown bits", s.ISR)
	case (s.Failure != "") != (s.Status&statusNeedsReset != 0):
		return errors.New("a failure goes with DEVICE_NEEDS_RESET, and that with a failure")
	case s.Status&statusDriverOK != 0 && s.Status&statusFeaturesOK == 0:
		return errors.New("DRIVER_OK without FEATURES_OK")
	case s.Status&statusFeaturesOK != 0 && (s.DriverFeatures&^c.offered() != 0 || s.DriverFeatures&featVersion1 == 0):
		return fmt.Errorf("features %#x were never offered", s.DriverFeatures)
	}
	return nil
}

type segmentState struct {
	Addr uint64 `json:"addr"`
	Len  uint32 `json:"len"`
}

func saveSegments(segs []segment) []segmentState {
	out := []segmentState{}
	for _, s := range segs {
		out = append(out, segmentState{s.addr, s.len})
	}
	return out
}

// loadSegments checks what chain.add would have checked, and returns the sum of the lengths as well.
func loadSegments(states []segmentState) (segs []segment, total uint64, err error) {
	if len(states) > maxQueueSize {
		return nil, 0, fmt.Errorf("a chain of %d buffers", len(states))
	}
	for _, s := range states {
		if s.Addr > math.MaxUint64-uint64(s.Len) || total+uint64(s.Len) > math.MaxUint32 {
			return nil, 0, fmt.Errorf("a buffer of %d bytes at %#x is not possible", s.Len, s.Addr)
		}
		segs = append(segs, segment{s.Addr, s.Len})
		total += uint64(s.Len)
	}
	return segs, total, nil
}
