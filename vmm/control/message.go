package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"tandem/vmm/protect"
)

// Version is the version of the format.
const Version = 1

// Bounds of a line, in bytes, with its end.
const (
	MaxRequestBytes = 4 << 10
	MaxAnswerBytes  = 1 << 20
)

// Verb is what a request asks for.
type Verb string

// The verbs. Their names are part of the format.
const (
	VerbStatus  Verb = "status"  // how the pair is
	VerbProtect Verb = "protect" // give the guest a backup, at Address
	VerbStop    Verb = "stop"    // end this host's part in order
)

// Request is one request.
type Request struct {
	Version int  `json:"v"`
	Verb    Verb `json:"verb"`
	// Address is the backup's TCP address, of VerbProtect alone.
	Address string `json:"address,omitempty"`
}

// Answer is the answer to a request.
type Answer struct {
	Version int `json:"v"`
	// Error says why the request was not done; "" if it was.
	Error string `json:"error,omitempty"`
	// Status is there after VerbStatus alone.
	Status *protect.Status `json:"status,omitempty"`
}

// DecodeRequest decodes a line without its end. Every error is one line for whoever asked.
func DecodeRequest(line []byte) (Request, error) {
	var r Request
	if len(line) >= MaxRequestBytes {
		return r, fmt.Errorf("a request has at most %d bytes", MaxRequestBytes)
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return Request{}, fmt.Errorf("not a request: %s", oneLine(err.Error()))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Request{}, errors.New("not a request: something follows it on its line")
	}
	return r, r.check()
}

func (r Request) check() error {
	if r.Version != Version {
		return fmt.Errorf("version %d is not spoken here: use the tandem that runs the guest, which speaks %d", r.Version, Version)
	}
	switch r.Verb {
	case VerbProtect:
		if r.Address == "" {
			return errors.New("protect needs an address")
		}
		return nil
	case VerbStatus, VerbStop:
		if r.Address != "" {
			return fmt.Errorf("%s has no address", r.Verb)
		}
		return nil
	}
	return fmt.Errorf("verb %q is unknown: there are %s, %s and %s", r.Verb, VerbStatus, VerbProtect, VerbStop)
}

// DecodeAnswer decodes a line without its end.
func DecodeAnswer(line []byte) (Answer, error) {
	var a Answer
	if len(line) >= MaxAnswerBytes {
		return a, fmt.Errorf("an answer has at most %d bytes", MaxAnswerBytes)
	}
	if err := json.Unmarshal(line, &a); err != nil {
		return Answer{}, fmt.Errorf("not an answer: %s", oneLine(err.Error()))
	}
	if a.Version != Version {
		return Answer{}, fmt.Errorf("the guest's tandem speaks version %d, this one %d: use the same", a.Version, Version)
	}
	a.Error = oneLine(a.Error)
	return a, nil
}

// oneLine takes what would move a terminal's cursor out of a text that comes from elsewhere.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}
