package vmm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"tandem/kvm"
	"tandem/lockstep"
	"tandem/lockstep/wire"
)

// A recording is a folder:
//
//	machine.log          the log (package wire)
//	checkpoint-000000    the machine as it was saved (wire.Checkpoint), number 0 at its start
//	final.json           the machine's state at the end, to compare with (Final)
const finalName = "final.json"

// ringBytes is how much of a log may wait to be written before the guest has to wait.
const ringBytes = 16 << 20

// DefaultDevicesEvery is after how many exits the hashes of all devices' states are logged.
const DefaultDevicesEvery = 1024

// RecordOptions says how a machine is recorded.
type RecordOptions struct {
	lockstep.RecorderOptions
	// DevicesEvery logs the hashes of all devices' states every so many exits; 0 takes DefaultDevicesEvery.
	DevicesEvery uint64
	// VerifyEvery logs the hashes of all pages written since the last time, every so many exits; 0 never.
	VerifyEvery uint64
	// CheckpointEvery saves the machine every so much guest time, but not so often that it takes more than a tenth of the
	// time; 0 never.
	CheckpointEvery time.Duration
}

// Recording is a machine's recording while it is made. It belongs to the machine's goroutine.
type Recording struct {
	machine *Machine
	dir     string
	options RecordOptions
	ring    *wire.Ring
	file    *wire.FileWriter
	written chan error // the file writer's end

	verified    lockstep.Position
	checkpoints uint64
	saved       int64 // guest time in ns of the last checkpoint
	rest        int64 // how much guest time must be between two checkpoints at the least, in ns
}

// RecordTo makes the machine, which is loaded and has no door yet, one that is recorded into a new folder. If it fails
// there is no folder; one that is there already is an error that wraps os.ErrExist.
func (m *Machine) RecordTo(dir string, options RecordOptions) (*Recording, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("a recording needs a new folder, name another: %w", err)
		}
		return nil, fmt.Errorf("make the folder for the recording: %w", err)
	}
	r, err := m.startRecording(dir, options)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return r, nil
}

// startRecording fills an empty folder with the machine as it is, and opens the log.
func (m *Machine) startRecording(dir string, options RecordOptions) (*Recording, error) {
	header, err := m.header()
	if err != nil {
		return nil, err
	}
	r := &Recording{machine: m, dir: dir, options: options, written: make(chan error, 1), saved: m.time(), verified: m.position}
	base := wire.Base{Sequence: 1, Position: uint64(m.position), Time: m.time()}
	r.ring = wire.NewRing(ringBytes, base, nil)
	if r.file, err = wire.CreateFile(filepath.Join(dir, wire.LogName), header, r.ring); err != nil {
		return nil, err
	}
	if err := m.SaveFile(r.checkpointPath(0), 0, base); err != nil {
		return nil, errors.Join(err, r.file.Close())
	}
	m.Record(r.ring, options.RecorderOptions)
	if options.DevicesEvery > 0 {
		m.devicesEvery = options.DevicesEvery
	}
	m.recording = r
	go func() { r.written <- r.file.Run(context.Background()) }()
	return r, nil
}

func (r *Recording) checkpointPath(number uint64) string {
	return filepath.Join(r.dir, wire.CheckpointName(number))
}

// keepRecord logs, at a position whose inputs are applied, what is logged from time to time.
func (m *Machine) keepRecord() error {
	if m.recorder == nil {
		return nil
	}
	if err := m.forgetWritten(); err != nil {
		return err
	}
	if uint64(m.position-m.devicesLogged) >= m.devicesEvery {
		m.devicesLogged = m.position
		if err := m.logDevices(); err != nil {
			return err
		}
	}
	r := m.recording
	if r == nil {
		return nil
	}
	if every := r.options.VerifyEvery; every > 0 && uint64(m.position-r.verified) >= every {
		r.verified = m.position
		if err := m.logPages(); err != nil {
			return err
		}
	}
	if every := int64(r.options.CheckpointEvery); every > 0 && m.time()-r.saved >= max(every, r.rest) {
		return r.checkpoint()
	}
	return nil
}

// checkpointRest is how many times as long as a checkpoint takes the guest goes on until the next, at the least. The guest
// stands still while it is saved, and its clock does not.
const checkpointRest = 10

// checkpoint saves the machine where it stands.
func (r *Recording) checkpoint() error {
	m, start := r.machine, time.Now()
	r.checkpoints++
	r.saved = m.time()
	defer func() { r.rest = checkpointRest * int64(time.Since(start)) }()
	// The log goes on behind the mark that it gets of this checkpoint.
	base := wire.Base{Sequence: r.ring.Base().Sequence + 1, Position: uint64(m.position), Time: m.time()}
	if err := m.SaveFile(r.checkpointPath(r.checkpoints), r.checkpoints, base); err != nil {
		return err
	}
	m.pageWriter = nil // deltas from here on must not need what came before
	m.recorder.Checkpoint(r.checkpoints)
	return m.recorder.Err()
}

// endCauses are a log's words for the ways in which a guest ends.
var endCauses = map[Cause]wire.Cause{
	CauseHalt: wire.EndPowerOff, CauseReset: wire.EndReset, CauseTripleFault: wire.EndTripleFault, CauseStopped: wire.EndStopped,
}

// Finish ends the log with the way in which Run has returned, and writes what a replay is compared with.
func (r *Recording) Finish(cause Cause, failure error) error {
	m := r.machine
	if failure != nil {
		m.recorder.End(wire.EndFailure, truncate(failure.Error(), wire.MaxMessage))
	} else {
		m.recorder.End(endCauses[cause], "")
	}
	errs := []error{m.recorder.Err(), r.writeFinal()}
	r.ring.Close()
	errs = append(errs, <-r.written, r.file.Close())
	m.recording = nil
	return errors.Join(errs...)
}

func truncate(s string, bytes int) string { return s[:min(len(s), bytes)] }

func (r *Recording) writeFinal() error {
	final, err := r.machine.Final()
	if err != nil {
		return err
	}
	p, err := json.Marshal(final)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.dir, finalName), p, 0o600)
}

// Stats returns the counters of the log.
func (r *Recording) Stats() wire.RingStats { return r.ring.Stats() }

// Playback is a machine that follows a recording.
type Playback struct {
	Machine *Machine
	dir     string
	log     *os.File
}

// OpenRecording makes a machine as it was at a checkpoint of a recording, with the log behind it as its door. adapt may
// give it sinks; what the guest writes goes there again.
func OpenRecording(system *kvm.System, dir string, checkpoint uint64, adapt func(*Config)) (*Playback, error) {
	log, err := openPart(dir, wire.LogName)
	if err != nil {
		return nil, err
	}
	saved, err := openPart(dir, wire.CheckpointName(checkpoint))
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	defer saved.Close()
	p := &Playback{dir: dir, log: log}
	if err := p.open(system, saved, checkpoint, adapt); err != nil {
		return nil, errors.Join(fmt.Errorf("recording %s: %w", dir, err), log.Close())
	}
	return p, nil
}

// openPart opens a file of a recording.
func openPart(dir, name string) (*os.File, error) {
	file, err := os.Open(filepath.Join(dir, name))
	switch {
	case err == nil:
		return file, nil
	case !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("open the recording: %w", err)
	case name == wire.LogName:
		return nil, fmt.Errorf("%s is no recording: there is no %s in it", dir, name)
	}
	return nil, fmt.Errorf("recording %s has no %s: checkpoints are made by record --checkpoint, and number 0 is always there", dir, name)
}

func (p *Playback) open(system *kvm.System, saved io.Reader, checkpoint uint64, adapt func(*Config)) error {
	source, err := wire.NewReader(p.log)
	if err != nil {
		return fmt.Errorf("%s: %w", wire.LogName, err)
	}
	place, err := wire.ReadCheckpoint(saved)
	if err != nil {
		return fmt.Errorf("%s: %w", wire.CheckpointName(checkpoint), err)
	}
	if place.Number != checkpoint || place.Fingerprint != source.Header().Fingerprint {
		return fmt.Errorf("%s is another machine's or another number's: the folder's files were mixed up", wire.CheckpointName(checkpoint))
	}
	config, err := ConfigOf(&place.Header)
	if err != nil {
		return err
	}
	adapt(&config)
	m, err := New(system, config)
	if err != nil {
		return err
	}
	if err = m.LoadSaved(saved); err != nil {
		err = fmt.Errorf("%s: %w", wire.CheckpointName(checkpoint), err)
	} else {
		err = skipTo(source, &place)
	}
	if err != nil {
		return errors.Join(err, m.Close())
	}
	m.Replay(source)
	p.Machine = m
	return nil
}

// skipTo reads a log up to and including the mark of a checkpoint; number 0 is the start and has none.
func skipTo(source *wire.Reader, place *wire.Checkpoint) error {
	if place.Number == 0 {
		return nil
	}
	source.Only(wire.SetOf(wire.KindCheckpoint))
	defer source.Only(wire.AllKinds)
	for {
		var r wire.Record
		if err := source.Next(&r); err != nil || r.Kind == wire.KindEnd {
			return fmt.Errorf("the log has no mark of checkpoint %d: %w", place.Number, errors.Join(err, io.ErrUnexpectedEOF))
		}
		if r.Kind != wire.KindCheckpoint || r.Number != place.Number {
			continue
		}
		if next := source.Base(); next.Sequence != place.Base.Sequence || next.Position != place.Base.Position {
			return fmt.Errorf("checkpoint %d belongs before record %d at exit %d, the log's mark of it before record %d at exit %d: they are of different recordings",
				place.Number, place.Base.Sequence, place.Base.Position, next.Sequence, next.Position)
		}
		return nil
	}
}

// Close releases the machine and the log.
func (p *Playback) Close() error { return errors.Join(p.Machine.Close(), p.log.Close()) }

// Compare names everything in which the machine, whose Run has returned at the log's end, differs from the one that was
// recorded. A guest that has ended by itself must have done so where and how the log says: else the error is a
// *lockstep.Divergence.
func (p *Playback) Compare() ([]string, error) {
	if err := p.Machine.endsAsLogged(); err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(filepath.Join(p.dir, finalName))
	if err != nil {
		return nil, fmt.Errorf("the recording has no final state to compare with: %w", err)
	}
	var recorded Final
	if err := json.Unmarshal(raw, &recorded); err != nil {
		return nil, fmt.Errorf("%s of the recording: %w", finalName, err)
	}
	now, err := p.Machine.Final()
	if err != nil {
		return nil, err
	}
	return now.Differences(&recorded), nil
}
