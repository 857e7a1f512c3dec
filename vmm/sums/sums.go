// Package sums names pieces of memory and of disks by their content, so that two hosts find out which of them they both have
// without sending them.
//
// A sum is SHA-256 over a key and the piece, cut to 128 bits. A guest chooses the contents of both hosts' pieces, and would
// like two different ones with one sum: its backup would then hold something else than its primary. Against that a sum must be
// one that nobody can aim at, which rules out checksums. 128 bits alone would let the most patient find a pair, by 2^64 attempts;
// so each transfer has a key of its own, made by the primary at random, that no guest ever sees: contents that were prepared
// before it are equal by chance alone, once in 2^128 comparisons, and only pieces of the same place are compared.
package sums

import (
	"crypto/rand"
	"crypto/sha256"
	"hash"
)

// Bytes is the size of a sum and of a key.
const Bytes = 16

// Sum names the content of a piece.
type Sum [Bytes]byte

// Key makes sums ones that nobody could foresee.
type Key [Bytes]byte

// NewKey returns a key by chance.
func NewKey() Key {
	var k Key
	_, _ = rand.Read(k[:]) // never fails
	return k
}

// Hasher makes sums with one key. It belongs to one goroutine.
type Hasher struct {
	key  Key
	hash hash.Hash
	out  [sha256.Size]byte
}

// NewHasher returns a Hasher.
func NewHasher(k Key) *Hasher { return &Hasher{key: k, hash: sha256.New()} }

// Of returns the sum of a piece.
func (h *Hasher) Of(piece []byte) Sum {
	h.hash.Reset()
	h.hash.Write(h.key[:])
	h.hash.Write(piece)
	return Sum(h.hash.Sum(h.out[:0])[:Bytes])
}

// Asker asks the other host for the sums of what it has in hand. It belongs to one goroutine.
type Asker interface {
	// Ask asks for the sums of count pieces from one on, 1 to pair.MaxAsk of them. It does not wait.
	Ask(first uint64, count int) error
	// Answer returns the answer to the oldest question that has had none: the sums of the first of those pieces, or none if
	// the other host has nothing there. It waits for it.
	Answer() ([]Sum, error)
}

// Ahead is how many questions are asked before the answer to the first is taken, so that the way to the other host and its work
// cost no time.
const Ahead = 8
