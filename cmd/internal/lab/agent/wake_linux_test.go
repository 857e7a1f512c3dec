package agent

import (
	"strings"
	"testing"
)

func TestKeepAwakeFails(t *testing.T) {
	for device, want := range map[string]string{
		"/no/such":  "opening /no/such: no such file",
		"/dev/null": "request 0x40086806 of /dev/null: inappropriate ioctl",
	} {
		if err := keepAwake(device); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", device, err, want)
		}
	}
}
