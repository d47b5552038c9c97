package provider

const yesKind = "`true`"

var definitionWords = vocabulary{place: "definition", schema: []string{"properties"}, words: []word{
	{name: "name", kind: "text", meaning: "What the definition is called, and its file: `NAME.yaml`. 1 to 63 of a-z, 0-9 and `-`. It must be there.", example: "name: example"},
	{name: "language", kind: "`1`", fallback: "`1`", meaning: "The version of the language that the file is written in.", example: "language: 1"},
	{name: "title", kind: "text", meaning: "What people call the system.", example: "title: Example"},
	{name: "docs", kind: "text", meaning: "The vendor's page about authentication.", example: "docs: https://developer.example.com/auth"},
	{name: "override", kind: yesKind, meaning: "The file takes the place of the built-in definition of that name. `provider check` refuses it where there is none.", example: "override: true"},
	{name: "inputs", kind: "names with [inputs](#an-input)", meaning: "What a credential brings.", example: `inputs: {client_id: {}, client_secret: {secret: true}}`},
	{name: "parameters", kind: "names with [inputs](#an-input)", meaning: "What a GetToken may bring. All that is declared must be sent, or shown.", example: `parameters: {tenant: {pattern: "[a-z]+"}}, obtain: {oauth2: "https://example.com/token", params: {tenant: "{{tenant}}"}}`},
	{name: "scopes", kind: "[a set](#scopes-and-resources)", meaning: "A GetToken may bring scopes, which stand in `{{scope}}`. `oauth2` sends them by itself in `obtain`. Not declared: a GetToken with scopes is refused.", example: `scopes: {default: [read]}, obtain: {oauth2: "https://example.com/token"}`},
	{name: "audience", kind: "[an input](#an-input)", meaning: "A GetToken may bring an audience, `{{audience}}`. `oauth2` sends it by itself in `obtain`.", example: `audience: {optional: true}, obtain: {oauth2: "https://example.com/token"}`},
	{name: "resources", kind: "[a set](#scopes-and-resources)", meaning: "A GetToken may bring resources (RFC 8707), `{{resources}}`. One with a fragment is refused. `oauth2` sends them by itself in `obtain`, as `resource`.", example: `resources: {}, obtain: {oauth2: "https://example.com/token"}`},
	{name: "let", kind: "names with [computations](#a-computation)", meaning: "Named values, computed at first use, once per run; anew when an answer brings what they are computed of.", example: `let: {pair: {base64: "{{username}}:{{password}}"}}`},
	{name: "headers", kind: "fields", meaning: "Sent on every token request, and handed out with the token.", example: `headers: {X-Api-Version: "2"}`},
	{name: "obtain", kind: "[a request](#a-request), or a list of them", meaning: "How a token is asked for. In a list each request may use what those before it took.", example: `obtain: {oauth2: "https://example.com/token"}`},
	{name: "refresh", kind: "[a request](#a-request), or a list of them", meaning: "How it is asked for while a refresh token is held. It takes what `obtain` takes, unless it says otherwise.", example: `obtain: {oauth2: "https://example.com/token"}, refresh: {oauth2: "https://example.com/token"}`},
	{name: "token", kind: "template", meaning: "Instead of `obtain`, where nothing is asked. A secret input in it says `handed_out: true`, for callers get it.", example: `token: "{{api_key}}"`},
	{name: "refresh_token_reuse", kind: "duration", values: []string{"forbidden", "allowed"}, fallback: "`forbidden`", meaning: "Whether a refresh token that was used is good again: not, always, or within a duration.", example: `refresh_token_reuse: 30s, refresh: {oauth2: "https://example.com/token"}`},
	{name: "refresh_token_lifetime", kind: "[two durations](#refresh_token_lifetime)", meaning: "How long a refresh token lives, for the status.", example: `refresh_token_lifetime: {idle: 30d}, refresh: {oauth2: "https://example.com/token"}`},
	{name: "lifetime", kind: "duration", values: []string{"until_rejected"}, fallback: "10m", meaning: "How long a token lives where the answer does not tell, or nobody can read what it tells. `until_rejected`: nobody knows, it is kept a day at most.", example: "lifetime: 60m"},
	{name: "margin", kind: "duration", fallback: "5m", meaning: "How long before its end a token is refreshed, never above a fifth of its lifetime.", example: "margin: 2m"},
	{name: "rate", kind: "`COUNT/duration`", meaning: "How many token requests this upstream gets from us.", example: "rate: 60/1m"},
	{name: "when_store_is_away", values: []string{"obtain", "fail"}, fallback: "`fail` where there is a `refresh`, else `obtain`", meaning: "While the store cannot be reached: `obtain`, each broker may obtain a token for itself, once per key and lifetime, and never stores it; `fail`, nobody gets a new one. Say `fail` where obtaining logs somebody in, or ends another session.", example: "when_store_is_away: fail"},
	{name: "error", kind: "[error rules](#errors)", meaning: "Where answers have their errors, for every request that has no `error` of its own.", example: "error: {code: error.code}"},
	{name: "present", kind: "[how it is shown](#present)", values: []string{"nothing"}, fallback: "`Authorization: Bearer {{token}}`", meaning: "How callers show the token to the API. The default is for a token whose `token_type` is absent, Bearer, BearerToken, Application Access Token or User Access Token, in any spelling; another type needs `present`.", example: `present: {headers: {X-Auth: "{{token}}"}}`},
	{name: "attributes", kind: "list of names", meaning: "Which taken values callers receive; nothing else leaves the broker.", example: `attributes: [account], obtain: {oauth2: "https://example.com/token", take: {account: account.id}}`},
	{name: "base_url", kind: "[URL](#urls)", meaning: "Where the API is, for callers.", example: `base_url: "{{server}}/api"`},
}}

// parameterWords may stand in an input, and in a parameter or the audience, which are not stored.
var parameterWords = vocabulary{place: "parameter", schema: []string{"$defs", "parameter", "properties"}, words: []word{
	{name: "title", kind: "text", meaning: "What people call it.", example: "title: Client id"},
	{name: "hint", kind: "text", meaning: "Where people find it.", example: "hint: under Settings → API"},
	{name: "secret", kind: yesKind, meaning: "It is kept sealed, never shown, and may stand in a URL only under `query`.", example: "secret: true"},
	{name: "optional", kind: yesKind, meaning: "It may be absent. What names it is left out then.", example: "optional: true"},
	{name: "default", kind: "text", meaning: "What holds where it was not given. That of a parameter is a template, and may name inputs. Not with `secret` or `optional`.", example: "default: eu"},
	{name: "one_of", kind: "list of texts", meaning: "All values that are allowed. What a caller may choose makes a host, or an issuer's URL, only by `one_of`.", example: "one_of: [eu, us]"},
	{name: "pattern", kind: "RE2 expression", meaning: "What the whole value matches.", example: `pattern: "[a-z]{2,8}"`},
	{name: "format", values: []string{"host", hostPathFormat, "url", "uuid", "email", "pem", "jwk", "json", "integer", "boolean"}, meaning: "What the value is: [formats](#formats).", example: "format: url"},
	{name: "prefix", kind: "text", meaning: "Cut off its beginning: people paste `Bearer abc` where `abc` is meant.", example: `prefix: "Bearer "`},
	{name: "suffix", kind: "text", meaning: "Cut off its end.", example: "suffix: .example.com"},
}}

// inputWords may stand in an input, which is stored with the credential.
var inputWords = vocabulary{place: "input", schema: []string{"$defs", "input", "properties"}, words: append(parameterWords.words[:len(parameterWords.words):len(parameterWords.words)],
	word{name: "seed", kind: yesKind, meaning: "It is the first refresh token. With `secret: true`. Not of a parameter.", example: "seed: true, secret: true"},
	word{name: "handed_out", kind: yesKind, meaning: "This secret may reach callers, in `token`, `present` or `base_url`. Not of a parameter.", example: "handed_out: true, secret: true"},
	word{name: "was", kind: "name", meaning: "Its former name: credentials that have a value for that one go on. Not of a parameter.", example: "was: app_id"},
)}

var setWords = vocabulary{place: "set", schema: []string{"$defs", "set", "properties"}, words: []word{
	{name: "join", kind: "text", fallback: "a space", meaning: "What stands between them in `{{scope}}`.", example: `join: ","`},
	{name: "default", kind: "list of templates", meaning: "Those of a GetToken that brings none, nor does the credential.", example: "default: [read]"},
	{name: "one_of", kind: "list of texts", meaning: "All that are allowed.", example: "one_of: [read, write]"},
	{name: "required", kind: yesKind, meaning: "A GetToken without any is refused before anything is sent.", example: "required: true"},
	{name: "known", kind: "names with texts", meaning: "Which there are, and what they mean, for people. Others are not forbidden.", example: "known: {read: read data}"},
}}

var lifetimeWords = vocabulary{place: "refresh_token_lifetime", schema: []string{"properties", "refresh_token_lifetime", "properties"}, words: []word{
	{name: "idle", kind: "duration", meaning: "From its last use on.", example: "idle: 30d"},
	{name: "absolute", kind: "duration", meaning: "From when it was given first.", example: "absolute: 365d"},
}}

var presentWords = vocabulary{place: "present", schema: []string{"properties", "present", "anyOf", "1", "properties"}, words: []word{
	{name: "headers", kind: "fields", meaning: "Headers of a call to the API.", example: `headers: {X-Api-Key: "{{token}}"}`},
	{name: "query", kind: "fields", meaning: "Parameters of its URL.", example: `query: {key: "{{token}}"}`},
	{name: "cookies", kind: "fields, or a template of the whole header", meaning: "Its cookies.", example: `cookies: {sid: "{{token}}"}`},
}}
