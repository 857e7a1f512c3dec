package imapload

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
)

// idHost is the right side of every message's identifier, by which messages of this package are known.
const idHost = "imapload.example.org"

// messageID names a message of a run: RFC 5322 §3.6.4 without the brackets.
func messageID(run string, session, seq int) string {
	return fmt.Sprintf("%s.%d.%d@%s", run, session, seq, idHost)
}

// lineBytes is the length of a body's lines without their ends.
const lineBytes = 64

// message makes the whole text of a message. The same arguments give the same text, and different identifiers different
// bodies. bodyBytes is rounded up to whole lines.
func message(id string, bodyBytes int) string {
	body := text(id, bodyBytes)
	sum := sha256.Sum256([]byte(body))
	return fmt.Sprintf("From: load@%s\r\nTo: guest@%[1]s\r\nSubject: %s\r\nMessage-ID: <%[2]s>\r\n"+
		"Date: Mon, 02 Jan 2006 15:04:05 +0000\r\nX-Body-SHA256: %s\r\n\r\n%s", idHost, id, hex.EncodeToString(sum[:]), body)
}

// text is lines of letters that follow from an identifier.
func text(id string, bytes int) string {
	const letters = "abcdefghijklmnopqrstuvwxyz234567"
	seed := sha256.Sum256([]byte(id))
	source := rand.NewChaCha8(seed)
	var b strings.Builder
	var word [8]byte
	for b.Len() < bytes {
		for range lineBytes / len(word) {
			binary.LittleEndian.PutUint64(word[:], source.Uint64())
			for _, v := range word {
				b.WriteByte(letters[v%byte(len(letters))])
			}
		}
		b.WriteString("\r\n")
	}
	return b.String()
}
