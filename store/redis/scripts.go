package redis

import "github.com/redis/go-redis/v9"

// The scripts. Each checks everything before its first write, changes one group, and may be repeated with the same effect.
// They take the time from Redis, once.
//
// Keys that a change finds in the group's zset are not among KEYS: they have the same hash tag, so they are in the same
// slot, which is what a Cluster asks for.

const timeLua = `
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
`

// readScript answers for each key its value, or false, and how many milliseconds it lives, -1: for ever.
var readScript = redis.NewScript(`#!lua flags=no-writes
local out = {}
for i, key in ipairs(KEYS) do
	local left = redis.call('PTTL', key)
	if left == 0 or left == -2 then
		out[2*i-1], out[2*i] = false, 0
	else
		out[2*i-1], out[2*i] = redis.call('GET', key), left
	end
end
return out
`)

// listScript answers member, value and time left of each row whose kind is among ARGV.
// KEYS: the group's zset.
var listScript = redis.NewScript(`#!lua flags=no-writes
` + timeLua + `
local prefix = string.sub(KEYS[1], 1, -5)
local wanted = {}
for _, kind in ipairs(ARGV) do wanted[kind] = true end
local out = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%d', now), '+inf')) do
	if wanted[string.match(member, '^[^:]*')] then
		local left = redis.call('PTTL', prefix .. member)
		local value = redis.call('GET', prefix .. member)
		if value and left ~= 0 then
			out[#out+1], out[#out+2], out[#out+3] = member, value, left
		end
	end
end
return out
`)

// countScript answers how many rows of the kind ARGV[1] there are.
// KEYS: the group's zset.
var countScript = redis.NewScript(`#!lua flags=no-writes
` + timeLua + `
local count = 0
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%d', now), '+inf')) do
	if string.match(member, '^[^:]*') == ARGV[1] then count = count + 1 end
end
return count
`)

// applyLua makes a batch; 1: made, or made before; 0: a condition does not hold.
// KEYS: the group's zset; then the rows that have conditions, that are to be deleted, that are to be put.
// ARGV: how many of each there are; 1 if the group is to be deleted; kinds to be cleared, with commas; channel and message,
// empty: none; then a revision for each condition; then value and time to live (ms; 0: for ever) for each put.
const applyLua = timeLua + `
local rows, prefix = KEYS[1], string.sub(KEYS[1], 1, -5)
local conditions, deletes, puts = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local function revision(key)
	if redis.call('PTTL', key) == 0 then return '' end
	return redis.call('GETRANGE', key, 0, 15)
end

for i = 1, puts do
	local key, value = KEYS[1 + conditions + deletes + i], ARGV[7 + conditions + 2*i - 1]
	if revision(key) == string.sub(value, 1, 16) then return 1 end
end
for i = 1, conditions do
	if revision(KEYS[1 + i]) ~= ARGV[7 + i] then return 0 end
end

redis.call('ZREMRANGEBYSCORE', rows, '-inf', '(' .. string.format('%d', now))
local function drop(member)
	redis.call('DEL', prefix .. member)
	redis.call('ZREM', rows, member)
end
if ARGV[4] == '1' or ARGV[5] ~= '' then
	local clear = {}
	for kind in string.gmatch(ARGV[5], '[^,]+') do clear[kind] = true end
	for _, member in ipairs(redis.call('ZRANGE', rows, 0, -1)) do
		if ARGV[4] == '1' or clear[string.match(member, '^[^:]*')] then drop(member) end
	end
end
for i = 1, deletes do
	drop(string.sub(KEYS[1 + conditions + i], #prefix + 1))
end
for i = 1, puts do
	local key, value, ttl = KEYS[1 + conditions + deletes + i], ARGV[7 + conditions + 2*i - 1], ARGV[7 + conditions + 2*i]
	local ends = '+inf'
	if ttl == '0' then
		redis.call('SET', key, value)
	else
		ends = string.format('%d', now + tonumber(ttl))
		redis.call('SET', key, value, 'PXAT', ends)
	end
	redis.call('ZADD', rows, ends, string.sub(key, #prefix + 1))
end
if ARGV[7] ~= '' then redis.pcall('PUBLISH', ARGV[6], ARGV[7]) end
return 1
`

// finishScript is applied also when Redis is out of memory: it ends what was begun, and losing it would lose a refresh
// token. applyScript is refused then before it writes anything.
var (
	applyScript  = redis.NewScript("#!lua\n" + applyLua)
	finishScript = redis.NewScript("#!lua flags=allow-oom\n" + applyLua)
)
