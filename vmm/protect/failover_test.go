package protect

import (
	"math/rand/v2"
	"strings"
	"testing"

	"tandem/lockstep/pair"
)

// A guest is typed at while its host is killed, again and again; each time the other host goes on with it. Everything
// whose echo was seen is there, and what comes afterwards follows it.
func TestGuestOutlivesItsHosts(t *testing.T) {
	for name, rule := range map[string]pair.Rule{"received": pair.RuleReceived, "verified": pair.RuleVerified} {
		t.Run(name, func(t *testing.T) {
			const alphabet = "abcdefghijklmnopqrstuvwxyz"
			random := rand.New(rand.NewPCG(uint64(rule), 9))
			p := newPair(t, rule)
			backup := p.start(t, 1, "")
			guest := p.start(t, 0, "uart-echo", backup.listen)
			guest.out.text(t, "ready\n")
			for life := range 4 {
				backup.errs.text(t, "state backup protected")
				guest.errs.text(t, "state primary protected")
				from := len(guest.out.String())
				n := random.IntN(len(alphabet))
				guest.typed(t, alphabet[:n])
				seen := random.IntN(n + 1)
				guest.out.text(t, strings.ToUpper(alphabet[:seen]))
				guest.kill()
				echo := guest.out.String()[from:]
				if !strings.HasPrefix(strings.ToUpper(alphabet[:n]), echo) {
					t.Fatalf("life %d: the guest was typed %q and said %q", life, alphabet[:n], echo)
				}
				backup.errs.text(t, "state primary alone")
				backup.typed(t, "*")
				backup.out.text(t, "*")
				if said := backup.out.String(); !strings.HasSuffix(strings.ToUpper(alphabet[:n])+"*", said) && !strings.HasPrefix(said, "ready") {
					// What it says again must be what the guest that died would have said.
					tail := strings.TrimSuffix(said, "*")
					if !strings.Contains(strings.ToUpper(alphabet[:n]), tail) {
						t.Errorf("life %d: of %q, with %q seen, the new host says %q", life, alphabet[:n], echo, said)
					}
				}
				guest = backup
				backup = p.start(t, life%2, "", guest.listen)
			}
		})
	}
}
