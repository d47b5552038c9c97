package settings

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbroker/tokenbroker/store/kek"
)

// KeysSettings say which key outside of the store wraps the keys, and how it is asked.
type KeysSettings struct {
	KeysKEK                   string        `type:"given" name:"keys-kek" env:"TOKENBROKER_KEYS_KEK" help:"URI of the key that wraps the keys, which lie in the store then, instead of in the key file: file:///PATH, vault://HOST:PORT/MOUNT/KEY, aws-kms://ARN or gcp-kms://NAME. See docs/keys.md."`
	KeysTimeout               time.Duration `name:"keys-timeout" env:"TOKENBROKER_KEYS_TIMEOUT" default:"10s" help:"Bound of one call of a KMS, at most ${keys_timeout_most}, which 0 is too. While a broker runs, 5s are the most."`
	KeysCAFile                string        `type:"place" name:"keys-ca-file" env:"TOKENBROKER_KEYS_CA_FILE" help:"Roots in PEM that KMSs are believed by instead of the system's."`
	KeysCertFile              string        `type:"place" name:"keys-cert-file" env:"TOKENBROKER_KEYS_CERT_FILE" help:"Client certificate in PEM for KMSs that want one."`
	KeysKeyFile               string        `type:"place" name:"keys-key-file" env:"TOKENBROKER_KEYS_KEY_FILE" help:"Its key in PEM."`
	KeysProxy                 bool          `name:"keys-proxy" env:"TOKENBROKER_KEYS_PROXY" help:"Ask KMSs through the proxies of HTTPS_PROXY and NO_PROXY."`
	KeysTransitTokenFile      string        `type:"place" name:"keys-transit-token-file" env:"TOKENBROKER_KEYS_TRANSIT_TOKEN_FILE" help:"File with a token for Transit; read at each call."`
	KeysTransitTokenEnv       string        `type:"given" name:"keys-transit-token-env" env:"TOKENBROKER_KEYS_TRANSIT_TOKEN_ENV" help:"Environment variable with a token for Transit, such as VAULT_TOKEN."`
	KeysTransitRole           string        `type:"given" name:"keys-transit-role" env:"TOKENBROKER_KEYS_TRANSIT_ROLE" help:"Role of a login with a JWT."`
	KeysTransitLoginMount     string        `type:"given" name:"keys-transit-login-mount" env:"TOKENBROKER_KEYS_TRANSIT_LOGIN_MOUNT" help:"Where that method is mounted; kubernetes where nothing is said."`
	KeysTransitJWTFile        string        `type:"place" name:"keys-transit-jwt-file" env:"TOKENBROKER_KEYS_TRANSIT_JWT_FILE" help:"JWT of that login; the pod's own where nothing is said."`
	KeysAWSEndpoint           string        `type:"given" name:"keys-aws-endpoint" env:"TOKENBROKER_KEYS_AWS_ENDPOINT" help:"AWS KMS elsewhere than at the region's public endpoint: https://HOST."`
	KeysAWSCredentialsFile    string        `type:"place" name:"keys-aws-credentials-file" env:"TOKENBROKER_KEYS_AWS_CREDENTIALS_FILE" help:"Credentials in the JSON of a credential_process; without this and the following they are in the environment."`
	KeysAWSRole               string        `type:"given" name:"keys-aws-role" env:"TOKENBROKER_KEYS_AWS_ROLE" help:"ARN of a role that is assumed with a web identity."`
	KeysAWSJWTFile            string        `type:"place" name:"keys-aws-jwt-file" env:"TOKENBROKER_KEYS_AWS_JWT_FILE" help:"That web identity."`
	KeysAWSSTSEndpoint        string        `type:"given" name:"keys-aws-sts-endpoint" env:"TOKENBROKER_KEYS_AWS_STS_ENDPOINT" help:"STS elsewhere than at the region's public endpoint."`
	KeysAWSContainerURI       string        `type:"given" name:"keys-aws-container-uri" env:"TOKENBROKER_KEYS_AWS_CONTAINER_URI" help:"Where a container's credentials are: what AWS_CONTAINER_CREDENTIALS_FULL_URI says."`
	KeysAWSContainerTokenFile string        `type:"place" name:"keys-aws-container-token-file" env:"TOKENBROKER_KEYS_AWS_CONTAINER_TOKEN_FILE" help:"Token to fetch those with."`
	KeysAWSMetadata           string        `type:"given" name:"keys-aws-metadata" env:"TOKENBROKER_KEYS_AWS_METADATA" help:"Metadata service of the instance: http://169.254.169.254."`
	KeysGCPEndpoint           string        `type:"given" name:"keys-gcp-endpoint" env:"TOKENBROKER_KEYS_GCP_ENDPOINT" help:"Google Cloud KMS elsewhere than at https://cloudkms.googleapis.com."`
	KeysGCPCredentialsFile    string        `type:"place" name:"keys-gcp-credentials-file" env:"TOKENBROKER_KEYS_GCP_CREDENTIALS_FILE" help:"JSON key of a service account."`
	KeysGCPMetadata           string        `type:"given" name:"keys-gcp-metadata" env:"TOKENBROKER_KEYS_GCP_METADATA" help:"Metadata service of the machine: http://169.254.169.254."`
}

// keysTimeoutMost bounds how long a KMS may take: what waits for one has no more time.
const keysTimeoutMost = 10 * time.Second

// Wrapped reports whether a KEK wraps the keys.
func (s *KeysSettings) Wrapped() bool { return s.KeysKEK != "" }

// KEK opens the key that wraps the keys. It asks nobody.
func (s *KeysSettings) KEK() (kek.KEK, error) { return s.Open(s.KeysKEK) }

// Open opens another one, with the same settings. It asks nobody.
func (s *KeysSettings) Open(uri string) (kek.KEK, error) {
	return kek.Open(context.Background(), uri, kek.Settings{
		Timeout: s.KeysTimeout, CAFile: s.KeysCAFile, CertFile: s.KeysCertFile, KeyFile: s.KeysKeyFile, EnvironmentProxy: s.KeysProxy,
		Transit: kek.Transit{
			TokenFile: s.KeysTransitTokenFile, TokenEnvironment: s.KeysTransitTokenEnv, Role: s.KeysTransitRole,
			LoginMount: s.KeysTransitLoginMount, JWTFile: s.KeysTransitJWTFile,
		},
		AWS: kek.AWS{
			Endpoint: s.KeysAWSEndpoint, CredentialsFile: s.KeysAWSCredentialsFile, Role: s.KeysAWSRole, JWTFile: s.KeysAWSJWTFile, STSEndpoint: s.KeysAWSSTSEndpoint,
			ContainerURI: s.KeysAWSContainerURI, ContainerTokenFile: s.KeysAWSContainerTokenFile, Metadata: s.KeysAWSMetadata,
		},
		GCP: kek.GCP{Endpoint: s.KeysGCPEndpoint, CredentialsFile: s.KeysGCPCredentialsFile, Metadata: s.KeysGCPMetadata},
	})
}

// KeysProblems hands everything that is wrong with them to bad.
func (s *KeysSettings) KeysProblems(bad func(setting, format string, args ...any)) {
	if s.KeysTimeout < 0 || s.KeysTimeout > keysTimeoutMost {
		bad("keys.timeout", "must be 0 or more, and at most %s: write how long, as 5s", written(keysTimeoutMost))
		return
	}
	if !s.Wrapped() {
		return
	}
	_, err := s.KEK()
	var f *kek.Failure
	if errors.As(err, &f) {
		bad("keys.kek", "%s", f.Detail)
	}
}
