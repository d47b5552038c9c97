package provider

var requestWords = vocabulary{place: "request", schema: []string{"$defs", "request", "properties"}, words: []word{
	{name: "oauth2", kind: "[URL](#urls), or [issuer](#discovery)", meaning: "A token request of OAuth 2.0: POST, a form with the grant's parameters, the answer of RFC 6749. Exactly one of `oauth2`, `get`, `post`, `put`, `delete`.", example: `oauth2: "https://example.com/token"`},
	{name: "grant", kind: "template", fallback: "`client_credentials`; `refresh_token` in `refresh`", meaning: "The `grant_type`, with `oauth2`. `password` adds username and password; `none` sends no grant_type.", example: `oauth2: "https://example.com/token", grant: password`},
	{name: "send", values: []string{"form", "json", "query"}, fallback: "`form`", meaning: "Where `oauth2` puts its parameters.", example: `oauth2: "https://example.com/token", send: json`},
	{name: "params", kind: "JSON of templates", meaning: "More parameters of `oauth2`. One that is written here wins over one that is added, and null removes it. Structures need `send: json`.", example: `oauth2: "https://example.com/token", params: {tenant: "{{username}}", grant_type: null}`},
	{name: "get", kind: "[URL](#urls)", meaning: "Asks with GET.", example: `get: "https://example.com/token"`},
	{name: "post", kind: "[URL](#urls)", meaning: "Asks with POST.", example: `post: "https://example.com/token"`},
	{name: "put", kind: "[URL](#urls)", meaning: "Asks with PUT.", example: `put: "https://example.com/sessions"`},
	{name: "delete", kind: "[URL](#urls)", meaning: "Asks with DELETE.", example: `delete: "https://example.com/sessions/mine"`},
	{name: "query", kind: "fields", meaning: "Parameters of the URL, encoded. The only place of a URL where a secret may stand.", example: `query: {key: "{{api_key}}"}`},
	{name: "headers", kind: "fields", meaning: "Headers of this request; they take the place of the definition's.", example: `headers: {X-Api-Key: "{{api_key}}"}`},
	{name: "cookies", kind: "fields, or a template of the whole header", meaning: "Cookies of this request. There is no jar: what an answer sets is taken, and named.", example: `cookies: {sid: "{{api_key}}"}`},
	{name: "form", kind: "fields", meaning: "The body, as application/x-www-form-urlencoded. At most one of `form`, `json`, `text`, `multipart`; not with `oauth2`, `get`, `delete`.", example: `form: {user: "{{username}}", password: "{{password}}"}`},
	{name: "json", kind: "JSON of templates", meaning: "The body, as JSON. A value that is `{{name}}` alone keeps its type: number, boolean, list.", example: `json: {user: "{{username}}", remember: false}`},
	{name: "text", kind: "template", meaning: "The body as it is written. Values are escaped by the `Content-Type` header that the definition writes.", example: `text: "<login>{{username}}</login>", headers: {Content-Type: application/xml}`},
	{name: "multipart", kind: "fields", meaning: "The body, as multipart/form-data.", example: `multipart: {user: "{{username}}"}`},
	{name: "auth", kind: "[a way](#auth)", values: []string{"client_secret_basic", "client_secret_post", "none"}, fallback: "`client_secret_post` with `oauth2`, else `none`", meaning: "How the client proves who it is.", example: `oauth2: "https://example.com/token", auth: client_secret_basic`},
	{name: "with_token", kind: yesKind, meaning: "Shows the token on this request, as `present` says: for one behind the one that took it.", example: `post: "https://example.com/me", with_token: true`},
	{name: "answer", values: []string{"json", "form", "text"}, fallback: "by Content-Type, then by the first character", meaning: "What the answer is read as.", example: "answer: form"},
	{name: "ok", kind: "status, or a list of them", fallback: "2xx", meaning: "Which statuses are no failure. A 3xx is an answer, and never followed.", example: "ok: [200, 302]"},
	{name: "error", kind: "[error rules](#errors)", fallback: "the definition's", meaning: "Where the answer has its error, and what it means.", example: "error: {code: error.code}"},
	{name: "expect", kind: "paths with [tests](#a-test)", meaning: "What must hold of the answer; else it is a failure.", example: "expect: {success: true}"},
	{name: "take", kind: "names with [places](#a-place-in-an-answer)", fallback: "with `oauth2` the names of RFC 6749", meaning: "What is taken out of the answer. `token`, `token_type`, `expires_in`, `expires_at`, `refresh_token` and `scope` have a meaning; other names are yours, and required unless `optional`. With `oauth2` it adds to those of RFC 6749; null takes one away.", example: "take: {token: data.token, account: data.account.id}"},
}}

var issuerWords = vocabulary{place: "oauth2", schema: []string{"$defs", "request", "properties", "oauth2", "anyOf", "1", "properties"}, words: []word{
	{name: "issuer", kind: "[URL](#urls)", meaning: "The token endpoint is found by discovery (RFC 8414, OpenID Connect), whose answer is believed for an hour, or until the endpoint is no longer there.", example: `issuer: "https://login.example.com"`},
}}

var authWords = vocabulary{place: "auth", schema: []string{"$defs", "auth", "anyOf", "1", "properties"}, words: []word{
	{name: "basic", kind: "list of two templates", meaning: "HTTP Basic with user and password as they are.", example: `basic: ["{{username}}", "{{password}}"]`},
	{name: "client_secret_basic", kind: "[id and secret](#id-and-secret)", meaning: "HTTP Basic, form-encoded first (RFC 6749 §2.3.1), of another id and secret than `client_id` and `client_secret`.", example: `client_secret_basic: {id: "{{username}}", secret: "{{password}}"}`},
	{name: "client_secret_post", kind: "[id and secret](#id-and-secret)", meaning: "`client_id` and `client_secret` among the other parameters, of another id and secret than the inputs of those names.", example: `client_secret_post: {id: "{{username}}", secret: "{{password}}"}`},
}}

var pairWords = vocabulary{place: "pair", schema: []string{"$defs", "pair", "properties"}, words: []word{
	{name: "id", kind: "template", fallback: "`{{client_id}}`", meaning: "The client's id.", example: `id: "{{username}}"`},
	{name: "secret", kind: "template", fallback: "`{{client_secret}}`", meaning: "Its secret.", example: `secret: "{{password}}"`},
}}

var testWords = vocabulary{place: "test", schema: []string{"$defs", "test", "anyOf", "3", "properties"}, words: []word{
	{name: "present", kind: "`true` or `false`", meaning: "Whether there is anything.", example: "present: true"},
	{name: "not", kind: "value, or a list of them", meaning: "What it is none of.", example: "not: [error, failed]"},
}}

var errorWords = vocabulary{place: "error", schema: []string{"$defs", "error", "properties"}, words: []word{
	{name: "code", kind: "[place](#a-place-in-an-answer)", fallback: "`error`", meaning: "Where the error's code is. Where it is declared, an answer that has one is a failure, also with a 200. Nothing, an empty text, `false` and 0 are no error.", example: "code: error.code"},
	{name: "message", kind: "[place](#a-place-in-an-answer)", fallback: "`error_description`, else the answer's beginning", meaning: "Where its words are, for `provider try` alone.", example: "message: error.message"},
	{name: "retry_after", kind: "[place](#a-place-in-an-answer)", fallback: "the header Retry-After", meaning: "Where it says when to ask again.", example: "retry_after: {header: X-Retry-In}"},
	{name: "rules", kind: "list of [rules](#a-rule)", meaning: "What errors mean. The first that matches holds, before the codes of RFC 6749 and the status.", example: "rules: [{status: 401, means: credential, wait: 10m}, {code: [E47, E48], means: request}]"},
}}

var ruleWords = vocabulary{place: "rule", schema: []string{"$defs", "error", "properties", "rules", "items", "properties"}, words: []word{
	{name: "status", kind: "[test](#a-test)", meaning: "Of which HTTP status. `status`, `code` or both must be there.", example: "status: [401, 403], means: credential"},
	{name: "code", kind: "[test](#a-test)", meaning: "Of which error code. One that a rule names is told to callers, the status and the log.", example: "code: E47, means: request"},
	{name: "means", values: []string{"upstream", "rate_limited", "request", "credential", "grant"}, meaning: "Whose failure it is. It must be there. `grant` is the refresh token's; of an obtain, the credential's.", example: "status: 409, means: upstream"},
	{name: "wait", kind: "duration", fallback: "[as the table says](#whose-failure-an-answer-is)", meaning: "How long nobody asks again.", example: "status: 401, means: credential, wait: 10m"},
}}
