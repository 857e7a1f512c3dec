package vmm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sort"

	"github.com/cespare/xxhash/v2"

	"tandem/kvm"
	"tandem/lockstep"
	"tandem/lockstep/wire"
)

// maxListed bounds the pages and fields that a report names one by one.
const maxListed = 16

// logPages logs the hashes of the pages that were written since the last time, by the guest or by devices. All pages
// count the first time.
func (m *Machine) logPages() error {
	for slot, region := range m.memory.Regions() {
		dirty, err := m.takeDirty(slot)
		if err != nil {
			return err
		}
		first, hashes := uint64(0), []byte(nil)
		flush := func() {
			if len(hashes) > 0 {
				m.recorder.Memory(first, hashes)
				hashes = hashes[:0]
			}
		}
		next := uint64(0)
		err = eachBit(dirty, func(page uint64) error {
			number := region.Base/kvm.PageBytes + page
			if number != next || len(hashes) == wire.MaxMemoryPages*8 {
				flush()
				first = number
			}
			next = number + 1
			content, err := m.memory.Bytes(number*kvm.PageBytes, kvm.PageBytes)
			if err == nil {
				hashes = wire.AppendPageHash(hashes, xxhash.Sum64(content))
			}
			return err
		})
		if err != nil {
			return err
		}
		flush()
	}
	return m.recorder.Err()
}

// checkPages compares pages with their logged hashes.
func (m *Machine) checkPages(first uint64, hashes []byte) error {
	record := wire.Record{Payload: hashes}
	var differ []string
	for i := range record.PageHashes() {
		gpa := (first + uint64(i)) * kvm.PageBytes
		content, err := m.memory.Bytes(gpa, kvm.PageBytes)
		if err != nil {
			return fmt.Errorf("the log has the hash of a page that the machine does not have: %w", err)
		}
		if xxhash.Sum64(content) != record.PageHash(i) && len(differ) < maxListed {
			differ = append(differ, fmt.Sprintf("page %#x", gpa))
		}
	}
	if len(differ) > 0 {
		return &lockstep.Divergence{Position: m.position, What: "memory differs from the log", Differ: differ}
	}
	return nil
}

// logDevices logs a hash of each device's state.
func (m *Machine) logDevices() error {
	hashes, err := m.deviceHashes()
	if err != nil {
		return err
	}
	m.recorder.Devices(hashes)
	return m.recorder.Err()
}

func (m *Machine) deviceHashes() ([]byte, error) {
	var hashes []byte
	for _, part := range m.parts() {
		state, err := part.SaveState()
		if err != nil {
			return nil, fmt.Errorf("save the state of %s: %w", part.Name, err)
		}
		hashes = wire.AppendPageHash(hashes, xxhash.Sum64(state))
	}
	return hashes, nil
}

// checkDevices compares the devices' states with their logged hashes.
func (m *Machine) checkDevices(logged []byte) error {
	hashes, err := m.deviceHashes()
	if err != nil {
		return err
	}
	if len(hashes) != len(logged) {
		return fmt.Errorf("the log has hashes of %d devices, the machine %d devices: the log is another machine's", len(logged)/8, len(hashes)/8)
	}
	now, then := wire.Record{Payload: hashes}, wire.Record{Payload: logged}
	var differ []string
	for i, part := range m.parts() {
		if now.PageHash(i) == then.PageHash(i) {
			continue
		}
		state, err := part.SaveState()
		if err != nil {
			return err
		}
		differ = append(differ, fmt.Sprintf("device %s, which is now %s", part.Name, state))
	}
	if len(differ) > 0 {
		return &lockstep.Divergence{Position: m.position, What: "a device's state differs from the log's hash", Differ: differ}
	}
	return nil
}

// Final is what is compared of two machines at the end: everything.
type Final struct {
	State savedState `json:"state"`
	// Pages has the hash of each page of RAM that is not zero, in rising order.
	Pages []pageHash `json:"pages"`
}

type pageHash struct {
	Page uint64 `json:"page"`
	Hash uint64 `json:"hash"`
}

// Final reads everything there is of the machine's state. Run must have returned.
func (m *Machine) Final() (*Final, error) {
	state, err := m.capture()
	if err != nil {
		return nil, err
	}
	f := &Final{State: *state}
	for slot, region := range m.memory.Regions() {
		for page := range uint64(m.memory.RegionPages(slot)) {
			gpa := region.Base + page*kvm.PageBytes
			content, err := m.memory.Bytes(gpa, kvm.PageBytes)
			if err != nil {
				return nil, err
			}
			if !isZero(content) {
				f.Pages = append(f.Pages, pageHash{gpa / kvm.PageBytes, xxhash.Sum64(content)})
			}
		}
	}
	return f, nil
}

// Differences names everything in which two machines differ: each register, device field and page. The order of what is
// named is fixed.
func (f *Final) Differences(other *Final) []string {
	var d []string
	note := func(name string, a, b any) {
		if fmt.Sprint(a) != fmt.Sprint(b) {
			d = append(d, fmt.Sprintf("%s: %v, other %v", name, a, b))
		}
	}
	note("position", f.State.Position, other.State.Position)
	note("guest clock in ns", f.State.TimeNS, other.State.TimeNS)
	note("digest of all exits", f.State.Digest, other.State.Digest)
	note("halted", f.State.Halted, other.State.Halted)
	d = append(d, cpuDifferences(f.State.CPU, other.State.CPU)...)
	d = append(d, partDifferences(f.State.Parts, other.State.Parts)...)
	return append(d, pageDifferences(f.Pages, other.Pages)...)
}

// xstateBV is where XSTATE_BV is in an XSAVE image, in 32-bit words (SDM vol. 1 §13.4.2).
const xstateBV = 512 / 4

// cpuDifferences names the registers in which two encoded vCPU states differ.
func cpuDifferences(a, b []byte) []string {
	var x, y cpuState
	if err := x.decode(a); err != nil {
		return []string{err.Error()}
	}
	if err := y.decode(b); err != nil {
		return []string{err.Error()}
	}
	// XSTATE_BV says of which components the processor knows that they are in their initial state, which is for it to find
	// out (SDM vol. 1 §13.6): KVM gives the initial state itself for those, so that nothing is lost here.
	clear(x.XSave.Region[xstateBV : xstateBV+2])
	clear(y.XSave.Region[xstateBV : xstateBV+2])
	return jsonDifferences("vCPU", mustJSON(&x), mustJSON(&y))
}

func mustJSON(v any) []byte {
	p, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("vmm: encode %T: %v", v, err))
	}
	return p
}

func partDifferences(a, b []savedPart) []string {
	var d []string
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i].Name != b[i].Name {
			return append(d, "the machines have different devices")
		}
		if !bytes.Equal(a[i].State, b[i].State) {
			d = append(d, jsonDifferences(a[i].Name, a[i].State, b[i].State)...)
		}
	}
	return d
}

// jsonDifferences names the fields in which two JSON values differ.
func jsonDifferences(name string, a, b []byte) []string {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return []string{name + ": not JSON"}
	}
	var d []string
	var walk func(path string, x, y any)
	walk = func(path string, x, y any) {
		switch xv := x.(type) {
		case map[string]any:
			yv, ok := y.(map[string]any)
			if !ok {
				break
			}
			for _, key := range sortedKeys(xv, yv) {
				walk(path+"."+key, xv[key], yv[key])
			}
			return
		case []any:
			yv, ok := y.([]any)
			if !ok || len(xv) != len(yv) {
				break
			}
			for i := range xv {
				walk(fmt.Sprintf("%s[%d]", path, i), xv[i], yv[i])
			}
			return
		}
		if fmt.Sprint(x) != fmt.Sprint(y) {
			d = append(d, fmt.Sprintf("%s: %v, other %v", path, x, y))
		}
	}
	walk(name, x, y)
	return d
}

func sortedKeys(maps ...map[string]any) []string {
	seen := map[string]bool{}
	for _, m := range maps {
		for k := range m {
			seen[k] = true
		}
	}
	keys := make([]string, 0, len(seen))
	for k := range seen {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// pageDifferences names the pages whose hashes differ; a page that one side does not list is zero there.
func pageDifferences(a, b []pageHash) []string {
	var d []string
	differ := 0
	note := func(page uint64, how string) {
		if differ++; differ <= maxListed {
			d = append(d, fmt.Sprintf("page %#x: %s", page*kvm.PageBytes, how))
		}
	}
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].Page < b[0].Page:
			note(a[0].Page, "zero in the other")
			a = a[1:]
		case len(a) == 0 || b[0].Page < a[0].Page:
			note(b[0].Page, "not zero in the other")
			b = b[1:]
		default:
			if a[0].Hash != b[0].Hash {
				note(a[0].Page, "content differs")
			}
			a, b = a[1:], b[1:]
		}
	}
	if differ > maxListed {
		d = append(d, fmt.Sprintf("and %d more pages", differ-maxListed))
	}
	return d
}
