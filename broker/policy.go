package broker

// An Operation is what a caller wants to do.
type Operation string

// The operations, as policy names them.
const (
	GetToken         Operation = "get_token"
	Watch            Operation = "watch"
	InvalidateOne    Operation = "invalidate"
	InvalidateAll    Operation = "invalidate.all"
	ReadCredential   Operation = "credential.read"   //nolint:gosec // an operation, no credential
	WriteCredential  Operation = "credential.write"  //nolint:gosec // an operation, no credential
	DeleteCredential Operation = "credential.delete" //nolint:gosec // an operation, no credential
	TestCredential   Operation = "credential.test"   //nolint:gosec // an operation, no credential
	ReadProvider     Operation = "provider.read"
)

// An Authorizer says whether a caller may do something. name is empty for operations on no particular credential, and
// scopes for those on no particular scopes. It is asked on every call, hits included, by many goroutines: it must be quick.
// It fails with a CallerNotAllowed failure and nothing else.
type Authorizer interface {
	Allow(caller Caller, op Operation, name CredentialName, scopes Scopes) error
}

// LocalOnly allows callers on this machine everything, and others nothing.
type LocalOnly struct{}

// Allow implements Authorizer.
func (LocalOnly) Allow(c Caller, _ Operation, name CredentialName, _ Scopes) error {
	if c.Local {
		return nil
	}
	return &Failure{Kind: CallerNotAllowed, Credential: name}
}
