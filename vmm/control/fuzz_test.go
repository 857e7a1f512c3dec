package control

import (
	"encoding/json"
	"strings"
	"testing"
)

// FuzzRequest decodes what anyone may send. What is taken must mean the same when it is sent again.
func FuzzRequest(f *testing.F) {
	for _, line := range []string{
		`{"v":1,"verb":"status"}`, `{"v":1,"verb":"stop"}`, `{"v":1,"verb":"protect","address":"[::1]:7400"}`,
		`{"v":1,"verb":"status"} x`, `{"v":1e9,"verb":null}`, `[[[[[[`, ``,
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := DecodeRequest(line)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r\x1b") {
				t.Fatalf("the error %q has more than one line", err)
			}
			return
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if len(again) >= MaxRequestBytes {
			return // escapes have made it longer
		}
		if same, err := DecodeRequest(again); err != nil || same != r {
			t.Fatalf("%+v is %+v when it is sent again, %v", r, same, err)
		}
	})
}

// FuzzAnswer decodes what a server may send.
func FuzzAnswer(f *testing.F) {
	for _, line := range []string{
		`{"v":1}`, `{"v":1,"error":"no"}`, `{"v":1,"status":{"guest":"mail","events":[{"text":"x"}]},"more":1}`, `{"v":1,"status":[]}`, ``,
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		a, err := DecodeAnswer(line)
		if err == nil && strings.ContainsAny(a.Error, "\n\r\x1b") {
			t.Fatalf("the error %q moves the cursor", a.Error)
		}
		if err == nil && a.Version != Version {
			t.Fatal("another version was taken")
		}
	})
}
