package provider

var whereWords = vocabulary{place: "where", schema: []string{"$defs", "where", "anyOf", "2", "properties"}, words: []word{
	{name: "path", kind: "path, or [a list in a list](#a-list-in-a-list)", meaning: "A place in the document. Exactly one of `path`, `header`, `cookie`, `cookies`, `text`, `claim`.", example: "path: data.id"},
	{name: "header", kind: "text", meaning: "The value of a header.", example: "header: X-Token"},
	{name: "cookie", kind: "text", meaning: "The value of a cookie that is set; of several of that name the last non-empty one.", example: "cookie: sid"},
	{name: "cookies", values: []string{"all"}, meaning: "All cookies that are set, as one Cookie header.", example: "cookies: all"},
	{name: "text", kind: yesKind, meaning: "The whole body.", example: "text: true"},
	{name: "claim", kind: "path", meaning: "A place in the claims of a JWT, with `of`.", example: "claim: sub, of: token"},
	{name: "of", kind: "name", meaning: "Which taken value is that JWT.", example: "claim: sub, of: token"},
	{name: "each", kind: "path", meaning: "Where a list is: `path` is then looked up in its first element that has the values of `where`.", example: "each: accounts, where: {main: true}, path: id"},
	{name: "where", kind: "paths with templates", meaning: "Which values that element has; null: it has none there.", example: `each: accounts, where: {name: "{{username}}"}, path: id`},
	{name: "optional", kind: yesKind, meaning: "It may be missing.", example: "path: data.id, optional: true"},
	{name: "pattern", kind: "RE2 expression with a group", meaning: "Its group 1 is taken.", example: `path: data.link, pattern: "/accounts/([0-9]+)"`},
	{name: "unit", values: []string{"s", "ms", "m", "d:hh:mm"}, fallback: "`s`", meaning: "What `expires_in` counts.", example: "path: data.minutes, unit: m"},
	{name: "layout", kind: "[layout](#layouts)", fallback: "[the usual ones](#layouts)", meaning: "How `expires_at` is written.", example: `path: data.until, layout: "%d.%m.%Y %H:%M:%S"`},
}}

var withinWords = vocabulary{place: "within", schema: []string{"$defs", "within", "properties"}, words: []word{
	{name: "path", kind: "path, or [a list in a list](#a-list-in-a-list)", meaning: "A place in the element that was found.", example: "each: roles, where: {name: admin}, path: id"},
	{name: "each", kind: "path", meaning: "Where the element that was found has a list.", example: "each: roles, where: {name: admin}, path: id"},
	{name: "where", kind: "paths with templates", meaning: "Which values an element of it has.", example: "each: roles, where: {name: admin}, path: id"},
}}
