package redis

import "github.com/redis/go-redis/v9"

// The scripts. Each checks everything before its first write, changes one group, and may be repeated with the same effect.
// They take the time from Redis, once.
//
// Keys that are found in the group's zset are not among KEYS: they have the same hash tag, so they are in the same slot, which is what a Cluster asks for. While
// that slot is moved they may be at another master all the same, and the one that has the zset finds nothing in their place: of keys that are among KEYS Redis
// says so itself (TRYAGAIN). So in a Cluster nothing is concluded of a member that has no key: whoever asked looks where that is (see nowhere). The zset's scores decide nothing either:
// they came with it, from a master whose clock may be another, while each key has come with the time that it has left. They say where to look first.

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

// rowsLua is what scripts know of a group whose zset is KEYS[1]. left is how many ms the key of a member lives, -1: for ever, 0: it ends now, -2: there is none here; nil: this
// master cannot say, because the slot is being moved.
const rowsLua = timeLua + `
local rows, prefix = KEYS[1], string.sub(KEYS[1], 1, -5)
local function left(member)
	local ms = redis.pcall('PTTL', prefix .. member)
	if type(ms) == 'number' then return ms end
end
`

// listScript answers what time it is, and member, value and time left of each row whose kind is among ARGV; no value: there is no key here.
// KEYS: the group's zset.
var listScript = redis.NewScript(`#!lua flags=no-writes
` + rowsLua + `
local wanted = {}
for _, kind in ipairs(ARGV) do wanted[kind] = true end
local out = {now}
for _, member in ipairs(redis.call('ZRANGE', rows, 0, -1)) do
	if wanted[string.match(member, '^[^:]*')] then
		local ms = left(member)
		if ms and (ms > 0 or ms == -1) then
			out[#out+1], out[#out+2], out[#out+3] = member, redis.call('GET', prefix .. member), ms
		elseif ms ~= 0 then
			out[#out+1], out[#out+2], out[#out+3] = member, false, 0
		end
	end
end
return out
`)

// applyLua makes a batch; 1: made, or made before; 0: a condition does not hold; members: nothing is made, because these have no key here, and would be deleted or forgotten.
// KEYS: the group's zset; then the rows that have conditions, that are to be deleted, that are to be put.
// ARGV: how many of each there are; 1 if the group is to be deleted; kinds to be cleared, with commas; channel and message,
// empty: none; of which kinds room is to be made, as kind=most and a comma each; members that have no key anywhere, with a comma before each, or *: all that have none
// here; then a revision for each condition; then for each put its value, its time to live in ms or 0, and when it ends in ms of Redis's clock or 0.
//
// What was made before is written once more, as it is: whoever waits for replicas waits for what was written on its own connection, and the one on which it was
// made may be lost. From Redis 7.2 on, WAIT on a connection that has written nothing waits for nobody.
//
// Members without a key are forgotten. In a Cluster that is looked at by whoever asked, which costs two round trips more, so it waits until they are many, or something depends on them.
//
// Nothing of it may be refused once something is written: nothing is rolled back. A master whose slot is being moved refuses a command that names a key that it
// has not, also one that the script has just deleted. So everything is looked at before the first write, what is put comes before what goes, and
// nothing is named after it has gone: each key that goes is deleted once, what is put is not deleted before, and members leave the zset all at once, last of all.
const applyLua = rowsLua + `
local conditions, deletes, puts = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local head = 9
local function revision(key)
	if redis.call('PTTL', key) == 0 then return '' end
	return redis.call('GETRANGE', key, 0, 15)
end

for i = 1, puts do
	local key, value = KEYS[1 + conditions + deletes + i], ARGV[head + conditions + 3*i - 2]
	if revision(key) == string.sub(value, 1, 16) then
		redis.call('SET', key, value, 'KEEPTTL')
		return 1
	end
end
for i = 1, conditions do
	if revision(KEYS[1 + i]) ~= ARGV[head + i] then return 0 end
end

local ends, drops, there, lost = {}, {}, {}, {}
local everywhere = ARGV[9] == '*'
local function forget(member)
	if not drops[member] then drops[member], drops[#drops+1] = true, member end
end
for member in string.gmatch(ARGV[9], '[^,*]+') do
	local ms = left(member)
	if not ms or ms == -2 then forget(member) end -- else somebody has put it since
end
local function drop(member, declared)
	if drops[member] then return end
	forget(member)
	if ends[member] then return end
	local ms = left(member)
	if ms and ms ~= -2 then
		there[#there+1] = prefix .. member
	elseif not everywhere and not (ms and declared) then
		lost[#lost+1] = member
	end
end
for i = 1, puts do
	local member, at = string.sub(KEYS[1 + conditions + deletes + i], #prefix + 1), head + conditions + 3*i
	local ttl, till = tonumber(ARGV[at - 1]), tonumber(ARGV[at])
	if ttl > 0 and (till == 0 or now + ttl < till) then till = now + ttl end
	if till == 0 then
		ends[member] = '+inf'
	elseif till > now then
		ends[member] = string.format('%d', till)
	else
		drop(member, true)
	end
end
for i = 1, deletes do
	drop(string.sub(KEYS[1 + conditions + i], #prefix + 1), true)
end

local late, unsure = {}, {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', rows, '-inf', string.format('%d', now))) do
	local ms = left(member)
	if drops[member] or ends[member] then
		-- it is decided
	elseif ms == 0 or ms == -2 and everywhere then
		forget(member)
	elseif ms == -1 then
		late[member] = '+inf'
	elseif ms and ms > 0 then
		late[member] = string.format('%d', now + ms)
	else
		unsure[#unsure+1] = member
	end
end
local function living(of)
	local all = {}
	for _, member in ipairs(redis.call('ZRANGE', rows, 0, -1)) do
		if not drops[member] and of(member) then all[#all+1] = member end
	end
	return all
end
if ARGV[4] == '1' or ARGV[5] ~= '' then
	local clear = {}
	for kind in string.gmatch(ARGV[5], '[^,]+') do clear[kind] = true end
	for _, member in ipairs(living(function(m) return ARGV[4] == '1' or clear[string.match(m, '^[^:]*')] end)) do drop(member) end
end
for kind, most in string.gmatch(ARGV[8], '([a-z]+)=(%d+),') do
	most = tonumber(most)
	if redis.call('ZRANGE', rows, most - 1, most - 1)[1] then -- there may be as many rows of all kinds
		local all = living(function(m) return string.sub(m, 1, #kind + 1) == kind .. ':' end)
		for i = 1, #all - most + 1 do drop(all[i]) end
	end
end
if #lost > 0 or #unsure > 100 and ARGV[9] == '' then -- all are looked for at once
	for _, member in ipairs(unsure) do
		if not drops[member] then lost[#lost+1] = member end
	end
	return lost
end

for i = 1, puts do
	local key = KEYS[1 + conditions + deletes + i]
	local member, value = string.sub(key, #prefix + 1), ARGV[head + conditions + 3*i - 2]
	if ends[member] then
		if ends[member] == '+inf' then
			redis.call('SET', key, value)
		else
			redis.call('SET', key, value, 'PXAT', ends[member])
		end
		redis.call('ZADD', rows, ends[member], member)
	end
end
for member, till in pairs(late) do
	if not drops[member] then redis.call('ZADD', rows, 'XX', till, member) end
end
for _, member in ipairs(drops) do
	if not ends[member] then redis.call('ZADD', rows, 'XX', '-inf', member) end
end
for _, key in ipairs(there) do redis.call('DEL', key) end
redis.call('ZREMRANGEBYSCORE', rows, '-inf', '-inf')
if ARGV[7] ~= '' then redis.pcall('PUBLISH', ARGV[6], ARGV[7]) end
return 1
`

// finishScript is applied also when Redis is out of memory: it ends what was begun, and losing it would lose a refresh
// token. applyScript is refused then before it writes anything.
var (
	applyScript  = redis.NewScript("#!lua\n" + applyLua)
	finishScript = redis.NewScript("#!lua flags=allow-oom\n" + applyLua)
)
