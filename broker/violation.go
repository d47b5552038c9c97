package broker

// A Violation is one thing wrong with a request or a credential.
type Violation struct {
	// Field is the path of what is wrong, such as `inputs.server`.
	Field string
	// Code says what is wrong, for programs. The zero value says the least: CodeInvalid.
	Code Code
	// Description says what to do, for people, and may change. It holds no secret value.
	Description string
}

// A Code is what is wrong with a field. What a program does about a violation it decides by this, and never by the Description.
type Code int

// The codes. Their order is not significant and they are never stored by number.
const (
	// CodeInvalid: the value is not of the form that is wanted.
	CodeInvalid Code = iota
	// CodeRequired: a value is wanted, and there is none.
	CodeRequired
	// CodeUnknown: there is nothing of this name, or the definition does not use it.
	CodeUnknown
	// CodeTooLarge: the value is longer than its limit, or there are too many.
	CodeTooLarge
	// CodeMisplaced: the value belongs in another field, or in another call.
	CodeMisplaced
	codes // their number
)

// Codes returns every code, for tables that must be complete.
func Codes() []Code {
	all := make([]Code, 0, codes)
	for c := range codes {
		all = append(all, c)
	}
	return all
}

// Invalid returns a RequestInvalid failure with the violations, or nil for none.
func Invalid(v ...Violation) error {
	if len(v) == 0 {
		return nil
	}
	return &Failure{Kind: RequestInvalid, Violations: v}
}

func invalid(field, description string) error {
	return Invalid(Violation{Field: field, Description: description})
}
