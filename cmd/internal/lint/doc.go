// Package lint holds the rules of the source tree that no compiler checks, as tests: which package may import which,
// where unsafe may stand, and what a device may not touch.
package lint
