package kek

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/tokenbroker/tokenbroker/internal/readfile"
)

// awsCredentials are whose requests are. They are got for one call, and not kept.
type awsCredentials interface {
	get(ctx context.Context) (aws.Credentials, error)
}

func openAWSCredentials(s Settings, region, domain string) (awsCredentials, error) {
	a := s.AWS
	ways := 0
	for _, way := range []string{a.CredentialsFile, a.Role, a.ContainerURI, a.Metadata} {
		if way != "" {
			ways++
		}
	}
	switch {
	case ways > 1:
		return nil, invalid("say in one way whose credentials of AWS are used: a file, a role, a container's or the metadata service's")
	case a.CredentialsFile != "":
		return credentialsFile(a.CredentialsFile), nil
	case a.Role != "":
		if a.JWTFile == "" || !strings.HasPrefix(a.Role, "arn:") || !printable(a.Role) {
			return nil, invalid("a role of AWS takes its ARN, and the file of the web identity's token")
		}
		c, err := newClient(or(a.STSEndpoint, schemeTLS+separator+"sts."+region+"."+domain), s, loopback)
		return &webIdentity{c, a.Role, a.JWTFile}, err
	case a.ContainerURI != "":
		u, err := url.Parse(a.ContainerURI)
		if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
			return nil, invalid("the address of the container's credentials is none: want what AWS_CONTAINER_CREDENTIALS_FULL_URI says")
		}
		c, err := newClient(u.Scheme+separator+u.Host, s, attached)
		return &container{c, u.RequestURI(), a.ContainerTokenFile}, err
	case a.Metadata != "":
		c, err := newClient(a.Metadata, s, attached)
		return &instance{c}, err
	}
	return environment{}, nil
}

// An awsKey is an access key in JSON, as a credential_process, a container's agent and the metadata service give it. Their names for the session's token
// differ.
type awsKey struct {
	Version      int
	AccessKeyID  string `json:"AccessKeyId"`
	Secret       string `json:"SecretAccessKey"`
	SessionToken string
	Token        string
}

func (k awsKey) credentials(of string) (aws.Credentials, error) {
	session := or(k.SessionToken, k.Token)
	if !printable(k.AccessKeyID) || !printable(k.Secret) || session != "" && !printable(session) {
		return aws.Credentials{}, failure(Refused, of+" has no access key of AWS: look at where it should come from")
	}
	return aws.Credentials{AccessKeyID: k.AccessKeyID, SecretAccessKey: k.Secret, SessionToken: session}, nil
}

// environment is the variables that AWS's own tools read.
type environment struct{}

func (environment) get(context.Context) (aws.Credentials, error) {
	return awsKey{AccessKeyID: os.Getenv("AWS_ACCESS_KEY_ID"), Secret: os.Getenv("AWS_SECRET_ACCESS_KEY"), SessionToken: os.Getenv("AWS_SESSION_TOKEN")}.
		credentials("the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)")
}

// credentialsFile is the path of a file.
type credentialsFile string

func (f credentialsFile) get(context.Context) (aws.Credentials, error) {
	data, err := readfile.Private(string(f), maxSecret)
	if err != nil {
		return aws.Credentials{}, failure(Refused, "the file of AWS's credentials cannot be read: "+readfile.Why(err).Error())
	}
	defer clear(data)
	var k awsKey
	if json.Unmarshal(data, &k) != nil || k.Version != 1 {
		return aws.Credentials{}, failure(Refused, "the file of AWS's credentials is none: want JSON of Version 1, as a credential_process prints it")
	}
	return k.credentials("the file of AWS's credentials")
}

// A webIdentity assumes a role with a JWT (STS, AssumeRoleWithWebIdentity).
type webIdentity struct {
	client     *client
	role, file string
}

func (w *webIdentity) get(ctx context.Context) (aws.Credentials, error) {
	token, err := secretOf(w.file, "the file of the web identity's token")
	if err != nil {
		return aws.Credentials{}, err
	}
	r, err := w.client.request(http.MethodPost, "/", url.Values{
		"Action": {"AssumeRoleWithWebIdentity"}, "Version": {"2011-06-15"}, "RoleArn": {w.role}, "RoleSessionName": {contextName},
		"WebIdentityToken": {token}, "DurationSeconds": {"900"},
	}.Encode())
	if err != nil {
		return aws.Credentials{}, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	a, err := w.client.send(ctx, r)
	if err != nil {
		return aws.Credentials{}, err
	}
	if !a.ok() {
		return aws.Credentials{}, awsFailure(xmlCode(a.body), a)
	}
	var got struct {
		Key struct {
			AccessKeyID  string `xml:"AccessKeyId"`
			Secret       string `xml:"SecretAccessKey"`
			SessionToken string `xml:"SessionToken"`
		} `xml:"AssumeRoleWithWebIdentityResult>Credentials"`
	}
	if xml.Unmarshal(a.body, &got) != nil {
		return aws.Credentials{}, nonsense()
	}
	return awsKey{AccessKeyID: got.Key.AccessKeyID, Secret: got.Key.Secret, SessionToken: got.Key.SessionToken}.credentials("STS's answer")
}

// A container asks the agent that EKS and ECS put beside containers.
type container struct {
	client     *client
	path, file string
}

func (c *container) get(ctx context.Context) (aws.Credentials, error) {
	header := http.Header{}
	if c.file != "" {
		token, err := secretOf(c.file, "the file of the container's token")
		if err != nil {
			return aws.Credentials{}, err
		}
		header.Set("Authorization", token)
	}
	a, err := c.client.json(ctx, http.MethodGet, c.path, header, nil)
	return keyIn(a, err, "the container's agent")
}

func keyIn(a answer, err error, of string) (aws.Credentials, error) {
	var k awsKey
	switch {
	case err != nil:
		return aws.Credentials{}, err
	case a.status >= 400 && a.status < 500 && a.status != http.StatusTooManyRequests:
		return aws.Credentials{}, failure(Refused, of+" gives no credentials of AWS: look at which role it has")
	case !a.ok():
		return aws.Credentials{}, a.failure()
	}
	if err := a.read(&k); err != nil {
		return aws.Credentials{}, err
	}
	return k.credentials(of)
}

// An instance asks the metadata service of EC2, by IMDSv2 alone.
type instance struct{ client *client }

const imdsRole = "/latest/meta-data/iam/security-credentials/"

// roleName is what IAM lets a role be called (CreateRole, RoleName). No character of it means something in a path, but for the names . and ..
var roleName = regexp.MustCompile(`^[A-Za-z0-9_+=,.@-]{1,64}$`)

func (i *instance) get(ctx context.Context) (aws.Credentials, error) {
	const of = "the metadata service"
	a, err := i.client.json(ctx, http.MethodPut, "/latest/api/token", http.Header{"X-Aws-Ec2-Metadata-Token-Ttl-Seconds": {"60"}}, nil)
	if err != nil || !a.ok() {
		return keyIn(a, err, of)
	}
	token := string(a.body)
	if !printable(token) {
		return aws.Credentials{}, nonsense()
	}
	header := http.Header{"X-Aws-Ec2-Metadata-Token": {token}}
	if a, err = i.client.json(ctx, http.MethodGet, imdsRole, header, nil); err != nil || !a.ok() {
		return keyIn(a, err, of)
	}
	role := strings.TrimSpace(string(a.body))
	if !roleName.MatchString(role) || role == "." || role == ".." {
		return aws.Credentials{}, nonsense()
	}
	a, err = i.client.json(ctx, http.MethodGet, imdsRole+role, header, nil)
	return keyIn(a, err, of)
}
