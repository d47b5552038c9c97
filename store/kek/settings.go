package kek

import "time"

// Settings say how KEKs are asked. They hold no secret, only where secrets are read. The zero value is good for a file.
type Settings struct {
	// Timeout bounds each call, with all that it takes to prove who we are. Zero is ten seconds.
	Timeout time.Duration
	// CAFile has the authorities that KMSs are believed by, in PEM, instead of the system's. Empty is the system's.
	CAFile string
	// CertFile and KeyFile are shown to KMSs that ask for a client certificate, in PEM. Both or neither.
	CertFile, KeyFile string
	// EnvironmentProxy goes through the proxies of HTTPS_PROXY and NO_PROXY. False goes through none.
	EnvironmentProxy bool

	Transit Transit
	AWS     AWS
	GCP     GCP
}

// Transit says how to prove who we are to OpenBao or Vault: by exactly one of TokenFile, TokenEnvironment and Role.
type Transit struct {
	// TokenFile holds a token, as agents write it. It is read at each call.
	TokenFile string
	// TokenEnvironment names the environment variable that holds a token, such as VAULT_TOKEN.
	TokenEnvironment string
	// Role logs in with a JWT at each call, by the method Kubernetes, or JWT, which is asked in the same way.
	Role string
	// LoginMount is where that method is mounted. Empty is "kubernetes".
	LoginMount string
	// JWTFile is the JWT of the login. Empty is the token of the pod's service account. It is read at each call.
	JWTFile string
}

// AWS says where AWS KMS is, and whose credentials are used: of CredentialsFile, Role, ContainerURI and Metadata at most one. Without any of them they are
// in the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, where they are temporary, AWS_SESSION_TOKEN. They are read or fetched at each call.
type AWS struct {
	// Endpoint is asked instead of the public one of the key's region: https://HOST, such as that of a VPC or of FIPS.
	Endpoint string
	// CredentialsFile is JSON as a credential_process of AWS prints it: Version 1, AccessKeyId, SecretAccessKey, SessionToken. Nobody else may read it.
	CredentialsFile string
	// Role is the ARN of a role that is assumed with the web identity in JWTFile, as EKS gives it to service accounts.
	Role, JWTFile string
	// STSEndpoint is asked for the role instead of the public one of the key's region.
	STSEndpoint string
	// ContainerURI is where credentials are fetched with the token in ContainerTokenFile: what AWS_CONTAINER_CREDENTIALS_FULL_URI says on EKS and ECS.
	ContainerURI, ContainerTokenFile string
	// Metadata is the instance's metadata service, which gives the instance's role: http://169.254.169.254. Empty asks none.
	Metadata string
}

// GCP says where Google Cloud KMS is, and whose credentials are used: exactly one of CredentialsFile and Metadata. They are read or fetched at each call.
type GCP struct {
	// Endpoint is asked instead of https://cloudkms.googleapis.com.
	Endpoint string
	// CredentialsFile is the JSON key of a service account. Nobody else may read it. With it nobody but the KMS is asked.
	CredentialsFile string
	// Metadata is the metadata service, which gives tokens of the machine's or the pod's service account: http://169.254.169.254. Empty asks none.
	Metadata string
}

func (s Settings) timeout() time.Duration {
	if s.Timeout == 0 {
		return 10 * time.Second
	}
	return s.Timeout
}
