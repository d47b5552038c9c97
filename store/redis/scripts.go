package redis

import "github.com/redis/go-redis/v9"

// The scripts. Each checks everything before its first write, changes one group, and may be repeated with the same effect.
// They take the time from Redis, once.
//
// Keys that are found in the group's zset are not among KEYS: they have the same hash tag, so they are in the same slot, which is what a Cluster asks for. While
// that slot is moved they may be at another master all the same, and the one that has the zset finds nothing in their place: of keys that are among KEYS Redis
// says so itself (TRYAGAIN). So a member that has not ended and has no key is told apart, and whoever asked looks where it is (see strayed).

const timeLua = `
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
`

// readScript answers what time it is, and for each key its value, or false, and how many milliseconds it lives, -1: for ever.
var readScript = redis.NewScript(`#!lua flags=no-writes
` + timeLua + `
local out = {now}
for i, key in ipairs(KEYS) do
	local left = redis.call('PTTL', key)
	if left == 0 or left == -2 then
		out[2*i], out[2*i+1] = false, 0
	else
		out[2*i], out[2*i+1] = redis.call('GET', key), left
	end
end
return out
`)

// listScript answers what time it is, and member, value and time left of each row whose kind is among ARGV; no value: there is no key.
// KEYS: the group's zset.
var listScript = redis.NewScript(`#!lua flags=no-writes
` + timeLua + `
local prefix = string.sub(KEYS[1], 1, -5)
local wanted = {}
for _, kind in ipairs(ARGV) do wanted[kind] = true end
local out = {now}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%d', now), '+inf')) do
	if wanted[string.match(member, '^[^:]*')] then
		local left = redis.call('PTTL', prefix .. member)
		local value = redis.call('GET', prefix .. member)
		if value and left ~= 0 then
			out[#out+1], out[#out+2], out[#out+3] = member, value, left
		elseif left == -2 then
			out[#out+1], out[#out+2], out[#out+3] = member, false, 0
		end
	end
end
return out
`)

// applyLua makes a batch; 1: made, or made before; 0: a condition does not hold; members: nothing is made, because these would be deleted, and have no key.
// KEYS: the group's zset; then the rows that have conditions, that are to be deleted, that are to be put.
// ARGV: how many of each there are; 1 if the group is to be deleted; kinds to be cleared, with commas; channel and message,
// empty: none; of which kinds room is to be made, as kind=most and a comma each; members that may have no key, with a comma each; then a revision for each condition;
// then for each put its value, its time to live in ms or 0, and when it ends in ms of Redis's clock or 0.
const applyLua = timeLua + `
local rows, prefix = KEYS[1], string.sub(KEYS[1], 1, -5)
local conditions, deletes, puts = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local head = 9
local function revision(key)
	if redis.call('PTTL', key) == 0 then return '' end
	return redis.call('GETRANGE', key, 0, 15)
end

for i = 1, puts do
	local key, value = KEYS[1 + conditions + deletes + i], ARGV[head + conditions + 3*i - 2]
	if revision(key) == string.sub(value, 1, 16) then return 1 end
end
for i = 1, conditions do
	if revision(KEYS[1 + i]) ~= ARGV[head + i] then return 0 end
end

local after = '(' .. string.format('%d', now)
local known, drops, lost = {}, {}, {}
for member in string.gmatch(ARGV[9], '[^,]+') do known[member] = true end
local function living() return redis.call('ZRANGEBYSCORE', rows, after, '+inf') end
local function drop(member, declared)
	if drops[member] then return end
	drops[member], drops[#drops+1] = true, member
	if not declared and not known[member] and redis.call('PTTL', prefix .. member) == -2 then lost[#lost+1] = member end
end
for i = 1, deletes do
	drop(string.sub(KEYS[1 + conditions + i], #prefix + 1), true)
end
if ARGV[4] == '1' or ARGV[5] ~= '' then
	local clear = {}
	for kind in string.gmatch(ARGV[5], '[^,]+') do clear[kind] = true end
	for _, member in ipairs(living()) do
		if ARGV[4] == '1' or clear[string.match(member, '^[^:]*')] then drop(member) end
	end
end
for kind, most in string.gmatch(ARGV[8], '([a-z]+)=(%d+),') do
	most = tonumber(most)
	if redis.call('ZRANGE', rows, most - 1, most - 1)[1] then -- there may be as many rows of all kinds
		local there = {}
		for _, member in ipairs(living()) do
			if string.sub(member, 1, #kind + 1) == kind .. ':' and not drops[member] then there[#there+1] = member end
		end
		for i = 1, #there - most + 1 do drop(there[i]) end
	end
end
if #lost > 0 then return lost end

redis.call('ZREMRANGEBYSCORE', rows, '-inf', '(' .. string.format('%d', now))
for _, member in ipairs(drops) do
	redis.call('DEL', prefix .. member)
	redis.call('ZREM', rows, member)
end
for i = 1, puts do
	local key, value = KEYS[1 + conditions + deletes + i], ARGV[head + conditions + 3*i - 2]
	local ttl, ends = tonumber(ARGV[head + conditions + 3*i - 1]), tonumber(ARGV[head + conditions + 3*i])
	if ttl > 0 then ends = now + ttl end
	local member = string.sub(key, #prefix + 1)
	if ends == 0 then
		redis.call('SET', key, value)
		redis.call('ZADD', rows, '+inf', member)
	elseif ends <= now then
		redis.call('DEL', key)
		redis.call('ZREM', rows, member)
	else
		ends = string.format('%d', ends)
		redis.call('SET', key, value, 'PXAT', ends)
		redis.call('ZADD', rows, ends, member)
	end
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
