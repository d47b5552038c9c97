package provider

const computeKind = "[computation](#a-computation)"

var computeWords = vocabulary{place: "compute", schema: []string{"$defs", "compute", "anyOf", "1", "properties"}, words: []word{
	{name: "base64", kind: computeKind, meaning: "Base64 with padding (RFC 4648 §4).", example: `base64: "{{username}}:{{password}}"`},
	{name: "base64url", kind: computeKind, meaning: "Base64 for URLs, without padding (RFC 4648 §5).", example: `base64url: "{{username}}"`},
	{name: "hex", kind: computeKind, meaning: "Hexadecimal, in lower case.", example: `hex: {sha256: "{{password}}"}`},
	{name: "from_base64", kind: computeKind, meaning: "The bytes that base64 stands for.", example: `hex: {from_base64: "{{password}}"}`},
	{name: "from_base64url", kind: computeKind, meaning: "The same of base64 for URLs, with padding or without.", example: `from_base64url: "{{password}}"`},
	{name: "from_hex", kind: computeKind, meaning: "The bytes that hexadecimal stands for.", example: `base64: {from_hex: "{{password}}"}`},
	{name: "from_percent", kind: computeKind, meaning: "`%2F` becomes `/`; `+` stays.", example: `from_percent: "{{username}}"`},
	{name: "lower", kind: computeKind, meaning: "In lower case.", example: `lower: "{{username}}"`},
	{name: "upper", kind: computeKind, meaning: "In upper case.", example: `upper: {hex: {sha1: "{{password}}"}}`},
	{name: "sha1", kind: computeKind, meaning: "A digest. It is bytes: wrap it in `hex`, `base64` or `base64url`.", example: `hex: {sha1: "{{password}}"}`},
	{name: "sha256", kind: computeKind, meaning: "The same.", example: `base64: {sha256: "{{username}}{{password}}"}`},
	{name: "sha512", kind: computeKind, meaning: "The same.", example: `hex: {sha512: "{{password}}"}`},
	{name: "uuid", kind: "`4`", meaning: "A random UUID (RFC 9562 §5.4).", example: "uuid: 4"},
	{name: "random", kind: "8 to 64", meaning: "So many random bytes: wrap them.", example: "hex: {random: 16}"},
	{name: "now", kind: "[mapping](#now)", meaning: "The time; without a layout, Unix time in seconds.", example: "now: {}"},
	{name: "first", kind: "list of computations", meaning: "The first of which everything is there.", example: `first: ["{{username}}", anonymous]`},
	{name: "split", kind: "[mapping](#split)", meaning: "One part of a text.", example: `split: {of: "{{username}}", by: "@", at: 0}`},
	{name: "field", kind: "[mapping](#field)", meaning: "A place in JSON.", example: `field: {of: "{{api_key}}", path: client_email}`},
	{name: "query", kind: "[mapping](#query)", meaning: "A parameter of a URL's query.", example: `query: {of: "{{server}}", name: code}`},
	{name: "quote", kind: computeKind, meaning: "A string of JSON or GraphQL, in its quotes.", example: `quote: "{{password}}"`},
}}

var nowWords = vocabulary{place: "now", schema: []string{"$defs", "compute", "anyOf", "1", "properties", "now", "properties"}, words: []word{
	{name: "add", kind: "duration, also with `-`", meaning: "What is added to the time.", example: "add: -5m"},
	{name: "layout", kind: "[layout](#layouts)", fallback: "`unix`", meaning: "How it is written.", example: "layout: rfc3339"},
}}

var splitWords = vocabulary{place: "split", schema: []string{"$defs", "compute", "anyOf", "1", "properties", "split", "properties"}, words: []word{
	{name: "of", kind: computeKind, meaning: "Which text.", example: `of: "{{username}}", by: "@", at: 0`},
	{name: "by", kind: "text", meaning: "What stands between the parts.", example: `of: "{{username}}", by: "@", at: 0`},
	{name: "at", kind: "whole number", meaning: "Which part, from 0; -1 is the last.", example: `of: "{{username}}", by: "@", at: -1`},
}}

var fieldWords = vocabulary{place: "field", schema: []string{"$defs", "compute", "anyOf", "1", "properties", "field", "properties"}, words: []word{
	{name: "of", kind: computeKind, meaning: "Which JSON.", example: `of: "{{api_key}}", path: client_email`},
	{name: "path", kind: "path", meaning: "The place in it.", example: `of: "{{api_key}}", path: "keys[0].id"`},
}}

var queryWords = vocabulary{place: "query", schema: []string{"$defs", "compute", "anyOf", "1", "properties", "query", "properties"}, words: []word{
	{name: "of", kind: computeKind, meaning: "Which URL.", example: `of: "{{server}}", name: code`},
	{name: "name", kind: "text", meaning: "Which parameter; the first of that name.", example: `of: "{{server}}", name: code`},
}}
