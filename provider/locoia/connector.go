package locoia

import (
	"bytes"
	"encoding/json"
	"strings"
)

// A connector is the configuration of Locoia's "Refreshable Token" authentication, with the header block that goes with it,
// beside or inside it.
type connector struct {
	Name                            string   `json:"name"`
	AuthorizationURL                string   `json:"authorization_request_url"`
	AuthorizationMethod             string   `json:"authorization_request_method"`
	AuthorizationHeaders            *headers `json:"authorization_request_headers"`
	AuthorizationBody               *string  `json:"authorization_request_body_template"`
	AccessTokenPath                 string   `json:"response_access_token_path"`
	AccessTokenInHeader             string   `json:"response_access_token_path_in_header"`
	AccessTokenInCookie             string   `json:"response_access_token_path_in_cookie"`
	RefreshTokenPath                string   `json:"response_refresh_token_path"`
	RefreshURL                      string   `json:"refresh_request_url"`
	RefreshHeaders                  *headers `json:"refresh_request_headers"`
	RefreshBody                     *string  `json:"refresh_request_body_template"`
	RefreshResponseAccessTokenPath  string   `json:"refresh_response_access_token_path"`
	RefreshResponseRefreshTokenPath string   `json:"refresh_response_refresh_token_path"`

	HeaderConfiguration *header `json:"header_configuration"`
	header
}

type header struct {
	Encode        bool              `json:"encode"`
	TokenInHeader *bool             `json:"token_in_header"`
	HeaderKey     string            `json:"header_key"`
	TokenFormat   string            `json:"token_format"`
	TokenPrefix   string            `json:"token_prefix"`
	ContentType   string            `json:"content_type"`
	UserAgent     string            `json:"User-Agent"`
	Headers       map[string]string `json:"headers"`
}

// headers are an object, or the text of one, as Locoia's own examples have it; null and an empty text are none.
type headers map[string]string

// UnmarshalJSON implements json.Unmarshaler.
func (h *headers) UnmarshalJSON(b []byte) error {
	var text string
	if json.Unmarshal(b, &text) == nil {
		if b = []byte(strings.TrimSpace(text)); len(b) == 0 {
			return nil
		}
	}
	return json.Unmarshal(b, (*map[string]string)(h))
}

// orNone is an absent one as an empty one.
func (h *headers) orNone() map[string]string {
	if h == nil {
		return nil
	}
	return *h
}

// A wrapped connector is what Locoia's pages show: the configuration beside the form that asks people for its inputs.
type wrapped struct {
	Name  string `json:"name"`
	Token *struct {
		Form   json.RawMessage `json:"auth_form"`
		Config json.RawMessage `json:"config"`
	} `json:"refreshable_token"`
	HeaderConfiguration *header `json:"header_configuration"`
}

// read reads a configuration, wrapped or not.
func read(data []byte) (connector, error) {
	var l connector
	var w wrapped
	if json.Unmarshal(data, &w) == nil && w.Token != nil {
		err := decode(w.Token.Config, &l)
		if l.Name == "" {
			l.Name = w.Name
		}
		if l.HeaderConfiguration == nil {
			l.HeaderConfiguration = w.HeaderConfiguration
		}
		return l, err
	}
	return l, decode(data, &l)
}

func decode(data []byte, to any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	return dec.Decode(to)
}
