package devices

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// DecodeState reads into state, a pointer, what a device has saved in JSON. Only the very encoding that saving the result
// would give is accepted (white space apart), so no field can be missing, unknown, doubled or out of order.
func DecodeState(p []byte, state any) error {
	decoder := json.NewDecoder(bytes.NewReader(p))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(state); err != nil {
		return err
	}
	canonical, err := json.Marshal(state)
	if err != nil {
		return err
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, p); err != nil {
		return err
	}
	if !bytes.Equal(compact.Bytes(), canonical) {
		return errors.New("a field is missing, doubled, out of order or not in its usual form")
	}
	return nil
}

// decodeState reads a state of type T, which the device named part has saved, and validates it.
func decodeState[T any](part string, p []byte, validate func(*T) error) (T, error) {
	var state, none T
	err := DecodeState(p, &state)
	if err == nil {
		err = validate(&state)
	}
	if err != nil {
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
