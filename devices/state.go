package devices

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// decodeState reads a state of type T, which the device named part has saved. Only the very encoding that saving the
// result would give is accepted (white space apart), so no field can be missing, unknown, doubled or out of order.
func decodeState[T any](part string, p []byte, validate func(*T) error) (T, error) {
	var state, none T
	decoder := json.NewDecoder(bytes.NewReader(p))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&state); err != nil {
		return none, fmt.Errorf("state of the %s: %w", part, err)
	}
	canonical, err := json.Marshal(&state)
	if err != nil {
		return none, fmt.Errorf("state of the %s: %w", part, err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, p); err != nil {
		return none, fmt.Errorf("state of the %s: %w", part, err)
	}
	if !bytes.Equal(compact.Bytes(), canonical) {
		return none, fmt.Errorf("state of the %s: a field is missing, doubled, out of order or not in its usual form", part)
	}
	if err := validate(&state); err != nil {
		return none, fmt.Errorf("state of the %s: %w", part, err)
	}
	return state, nil
}

// firstError returns an error for the first condition that is false.
func firstError(conditions ...condition) error {
	for _, c := range conditions {
		if !c.holds {
			return errors.New(c.otherwise)
		}
	}
	return nil
}

// condition is something that holds for every state that a device can have.
type condition struct {
	holds     bool
	otherwise string
}
