package kek

import "encoding/binary"

// The wrapped form, format 1:
//
//	byte  0       the format: 1
//	bytes 1, 2    how long the name is, most significant byte first
//	              the name of the KEK: what stays the same when its address or its file moves, as "vault:transit/tokenbroker"
//	bytes +2      how long the wrapped data key is
//	              the data key, as the KEK has wrapped it
//	the rest      what was wrapped, by AES-256-GCM with the data key: a nonce of 12 bytes, the ciphertext, a tag of 16
//
// Everything before the rest is associated data of the rest, followed by the caller's.
type form struct {
	name    string
	dataKey []byte
	head    []byte // all of the above, as it was written or read
	sealed  []byte
}

const (
	formatByte = 1
	lengthSize = 2
	// MaxPlaintext is the most that is wrapped, in bytes.
	MaxPlaintext = 1 << 20
	maxPart      = 1<<16 - 1
	maxWrapped   = MaxPlaintext + 1 + 2*(lengthSize+maxPart) + 12 + tagged
)

// head writes what comes before the rest. Its parts are bounded by whoever made them.
func head(name string, dataKey []byte) []byte {
	b := make([]byte, 0, 1+2*lengthSize+len(name)+len(dataKey))
	b = append(b, formatByte)
	for _, part := range [][]byte{[]byte(name), dataKey} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(part))) //nolint:gosec // G115: seal bounds both
		b = append(b, part...)
	}
	return b
}

// parse reads the form. What it gives shares the memory of wrapped.
func parse(wrapped []byte) (form, error) {
	if len(wrapped) == 0 || len(wrapped) > maxWrapped {
		return form{}, failure(Damaged, "nothing is there that a key-encryption key has wrapped, or something else is: restore it from a backup")
	}
	switch wrapped[0] {
	case formatByte:
	case 0, '{':
		return form{}, failure(Damaged, "something else is there than what a key-encryption key has wrapped: restore it from a backup")
	default:
		return form{}, failure(Damaged, "it is of a format that this tokenbroker does not read: a newer one wrote it, or it is damaged")
	}
	rest := wrapped[1:]
	var parts [2][]byte
	for i := range parts {
		if len(rest) < lengthSize {
			return form{}, damaged()
		}
		n := int(binary.BigEndian.Uint16(rest))
		rest = rest[lengthSize:]
		if n == 0 || n > len(rest) {
			return form{}, damaged()
		}
		parts[i], rest = rest[:n], rest[n:]
	}
	if len(parts[0]) > longestURI {
		return form{}, damaged()
	}
	for _, c := range parts[0] {
		if c <= ' ' || c >= 0x7f { // it is printed
			return form{}, damaged()
		}
	}
	return form{name: string(parts[0]), dataKey: parts[1], head: wrapped[:len(wrapped)-len(rest)], sealed: rest}, nil
}

// WrappedBy names the KEK that wrapped something, without asking it, such as "aws-kms:arn:aws:kms:…"; it is the KEK's place at its KMS, and no URI. It
// fails with a *Failure of kind Damaged. Nobody has vouched for the name before it is unwrapped.
func WrappedBy(wrapped []byte) (string, error) {
	f, err := parse(wrapped)
	if err != nil {
		return "", at("of what was wrapped", err)
	}
	return f.name, nil
}
