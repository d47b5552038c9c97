package main

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/sdk/logical"
)

const mount = "transit/"

// A token may do operations on paths: read, create, update, delete.
type token struct {
	Token  string              `json:"token"`
	Rights map[string][]string `json:"rights"`
	// Ends is when it does; zero: never.
	Ends time.Time `json:"ends"`
	// Role and JWT, where there are any, are what a login has to show to be given this token.
	Role string `json:"role"`
	JWT  string `json:"jwt"`
}

// A server is the engine, and the double of what is around it.
type server struct {
	engine  logical.Backend
	storage logical.Storage
	root    string

	mu     sync.Mutex
	tokens map[string]token
	sealed bool
}

func newTransit(root string) (*server, error) {
	s := &server{storage: &logical.InmemStorage{}, root: root, tokens: map[string]token{}}
	ctx := context.Background()
	config := &logical.BackendConfig{
		StorageView: s.storage,
		System:      &logical.StaticSystemView{DefaultLeaseTTLVal: time.Hour, MaxLeaseTTLVal: time.Hour},
	}
	engine, err := transit.Backend(ctx, config)
	if err != nil {
		return nil, err
	}
	for _, p := range engine.Paths { // the published sdk is stricter than the one that the engine was built with, about a path that no test asks
		if p.ExistenceCheck == nil {
			delete(p.Operations, logical.CreateOperation)
		}
	}
	if err := engine.Setup(ctx, config); err != nil {
		return nil, err
	}
	s.engine = engine
	return s, s.engine.Initialize(ctx, &logical.InitializationRequest{Storage: s.storage})
}

// ServeHTTP implements http.Handler.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, ours := strings.CutPrefix(r.URL.Path, "/v1/")
	if !ours {
		refuse(w, http.StatusNotFound, "no such page")
		return
	}
	body := map[string]any{}
	if r.ContentLength != 0 {
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 32<<20))
		d.UseNumber()
		if err := d.Decode(&body); err != nil {
			refuse(w, http.StatusBadRequest, "failed to parse JSON input")
			return
		}
	}
	s.mu.Lock()
	sealed := s.sealed
	s.mu.Unlock()
	switch {
	case path == "test/sealed" && r.Header.Get("X-Vault-Token") == s.root:
		s.mu.Lock()
		s.sealed, _ = body["sealed"].(bool)
		s.mu.Unlock()
		return
	case sealed:
		refuse(w, http.StatusServiceUnavailable, "Vault is sealed")
		return
	case path == "test/token" && r.Header.Get("X-Vault-Token") == s.root:
		s.take(w, body)
		return
	case path == "auth/kubernetes/login" && r.Method == http.MethodPost:
		s.login(w, body)
		return
	}
	request := &logical.Request{Storage: s.storage, Path: strings.TrimPrefix(path, mount), Data: body, ClientToken: r.Header.Get("X-Vault-Token")}
	switch r.Method {
	case http.MethodGet:
		request.Operation = logical.ReadOperation
	case http.MethodPost, http.MethodPut:
		request.Operation = logical.UpdateOperation
		if checks, exists, err := s.engine.HandleExistenceCheck(r.Context(), request); err == nil && checks && !exists {
			request.Operation = logical.CreateOperation
		}
	case http.MethodDelete:
		request.Operation = logical.DeleteOperation
	}
	switch {
	case !s.may(request.ClientToken, path, request.Operation):
		refuse(w, http.StatusForbidden, "permission denied")
	case !strings.HasPrefix(path, mount):
		refuse(w, http.StatusNotFound, "no handler for route \""+path+"\". route entry not found.")
	default:
		s.serve(w, r, request)
	}
}

// serve has the engine answer, and gives the status that Vault makes of it.
func (s *server) serve(w http.ResponseWriter, r *http.Request, request *logical.Request) {
	response, err := s.engine.HandleRequest(r.Context(), request)
	status, err := logical.RespondErrorCommon(request, response, err)
	switch {
	case status != 0:
		text := ""
		if err != nil {
			text = err.Error()
		}
		refuse(w, status, text)
	case err != nil:
		refuse(w, http.StatusInternalServerError, err.Error())
	case response == nil:
		w.WriteHeader(http.StatusNoContent)
	default:
		reply(w, http.StatusOK, map[string]any{"data": response.Data, "warnings": response.Warnings})
	}
}

func (s *server) may(show, path string, operation logical.Operation) bool {
	if show == s.root {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t, known := s.tokens[show]
	return known && (t.Ends.IsZero() || time.Now().Before(t.Ends)) && slices.Contains(t.Rights[path], string(operation))
}

// take makes a token, or changes it.
func (s *server) take(w http.ResponseWriter, body map[string]any) {
	var t token
	text, err := json.Marshal(body)
	if err != nil || json.Unmarshal(text, &t) != nil || t.Token == "" {
		refuse(w, http.StatusBadRequest, "no token")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[t.Token] = t
}

func (s *server) login(w http.ResponseWriter, body map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tokens {
		if t.Role != "" && t.Role == body["role"] && t.JWT == body["jwt"] {
			reply(w, http.StatusOK, map[string]any{"auth": map[string]any{"client_token": t.Token, "lease_duration": 60}})
			return
		}
	}
	refuse(w, http.StatusForbidden, "permission denied")
}

func refuse(w http.ResponseWriter, status int, text string) {
	reply(w, status, map[string]any{"errors": []string{text}})
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
