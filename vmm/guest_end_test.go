package vmm

import (
	"strings"
	"sync"
	"testing"

	"tandem/testdata/guests"
)

// TestStop stops guests that never end, wherever they are: computing, halted, between two ticks, or not begun.
func TestStop(t *testing.T) {
	tests := []struct{ name, guest, when string }{
		{"computing", "compute", "computing\n"},
		{"halted", "sleep", "sleeping\n"},
		{"ticking", "idle", "idle\n"},
		{"not begun", "compute", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			g := loadGuest(t, guests.Image(test.guest), 0)
			if test.when == "" {
				g.Stop()
			}
			g.start()
			if test.when != "" {
				g.debug.await(t, test.when)
				g.Stop()
			}
			if cause := g.wait(t); cause != CauseStopped {
				t.Errorf("%v", cause)
			}
		})
	}
}

// TestEcho types at a guest that echoes capitals: more at once than the UART holds, and in pieces.
func TestEcho(t *testing.T) {
	long := strings.Repeat("the quick brown fox ", 50)
	tests := []struct {
		name  string
		typed []string
	}{
		{"a word", []string{"hello\x04"}},
		{"byte by byte", append(strings.Split("hello, world", ""), "\x04")},
		{"more than the FIFO holds", []string{long, "\x04"}},
		{"pieces of every size", []string{long[:1], long[:15], long[:16], long[:17], long[:33], "\x04"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			g := loadGuest(t, guests.Image("uart-echo"), 0)
			g.start()
			g.debug.await(t, "ready\n")
			for _, text := range test.typed {
				if err := g.Post(typed(text)); err != nil {
					t.Fatal(err)
				}
			}
			if cause := g.wait(t); cause != CauseHalt {
				t.Errorf("%v", cause)
			}
			want := strings.ToUpper(strings.TrimSuffix(strings.Join(test.typed, ""), "\x04"))
			if got := g.console.String(); got != want {
				t.Errorf("console %q, want %q", got, want)
			}
			if got := g.debug.String(); got != "ready\nend\n" {
				t.Errorf("debug port %q", got)
			}
		})
	}
}

// TestNoKickLost posts from many goroutines to a guest that halts whenever it has nothing to do: an input whose kick
// or wake-up were lost would leave it halted for ever.
func TestNoKickLost(t *testing.T) {
	const typists, each = 8, 60
	g := loadGuest(t, guests.Image("uart-echo"), 0)
	g.start()
	g.debug.await(t, "ready\n")
	var done sync.WaitGroup
	for i := range typists {
		done.Go(func() {
			for range each {
				if err := g.Post(typed(string(rune('a' + i)))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done.Wait()
	if err := g.Post(typed("\x04")); err != nil {
		t.Fatal(err)
	}
	if cause := g.wait(t); cause != CauseHalt {
		t.Errorf("%v", cause)
	}
	echo := g.console.String()
	if len(echo) != typists*each {
		t.Errorf("%d bytes echoed, %d typed", len(echo), typists*each)
	}
	for i := range typists {
		if n := strings.Count(echo, string(rune('A'+i))); n != each {
			t.Errorf("%d of %c, want %d", n, 'A'+i, each)
		}
	}
}

// TestStopInAStorm stops computing guests from several goroutines at once while others post: every machine must stop,
// since a guest that computes can only be kicked out.
func TestStopInAStorm(t *testing.T) {
	const machines, stoppers, posters, posts = 20, 4, 4, 50
	for range machines {
		g := loadGuest(t, guests.Image("compute"), 0)
		g.start()
		var done sync.WaitGroup
		for range posters {
			done.Go(func() {
				for range posts {
					if err := g.Post(typed("x")); err != nil {
						t.Error(err)
					}
				}
			})
		}
		for range stoppers {
			done.Go(g.Stop)
		}
		if cause := g.wait(t); cause != CauseStopped {
			t.Errorf("%v", cause)
		}
		done.Wait()
	}
}
