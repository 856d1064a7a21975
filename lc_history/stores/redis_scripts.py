"""The Lua scripts of the Redis store: each verb is one of them, atomic where the data lives.

A script is sent by its hash; a server that does not know it (new, restarted, flushed, failed over) is sent
the text. Everything a script touches is declared in KEYS:

    the head of the session and the numbers of its ids (a hash)
    its records (one list per lane, in the order of `LANES`)
    the user's index: sessions by their last change, and by their expiry (two sorted sets)
    the same for a shard of all sessions

Times are microseconds since 1970, from the server's own clock; 0 is never. Where the sessions are spread over
several servers, the indexes are left out, and `NOTE` is sent to the servers that keep them.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1
from typing import Final

from lc_history.model import LANES

_PRELUDE: Final = (
    """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local LIST = {"""
    + ", ".join(f"{lane} = {number}" for number, lane in enumerate(LANES, 2))
    + f"""}}
local INDEXES = {len(LANES) + 2}"""
    """

-- Lua hands over at most some 8,000 arguments at once.
local function many(command, key, values)
  for first = 1, #values, 4000 do
    redis.call(command, key, unpack(values, first, math.min(first + 3999, #values)))
  end
end

-- An expired session is no session, also in the moment before Redis collects it. With the head comes the number
-- of each id that is asked for. A session that is new has a version that none before it had.
local function find(lane, ids)
  local names = {'state', 'created', 'updated', 'expires', 'archived', 'version', 'erased', 'gaps', 'last.' .. lane}
  local numbers, v = {}, redis.call('HMGET', KEYS[1], unpack(names))
  for first = 1, ids and #ids or 0, 4000 do
    local found = redis.call('HMGET', KEYS[1], unpack(ids, first, math.min(first + 3999, #ids)))
    for at = 1, #found do numbers[first + at - 1] = tonumber(found[at]) end
  end
  local head = {state = v[1] or 'absent', created = tonumber(v[2]) or now, updated = tonumber(v[3]) or now,
    expires = tonumber(v[4]) or 0, archived = v[5] or '0', version = tonumber(v[6]) or now,
    erased = tonumber(v[7]) or 0, gaps = v[8] == '1', last = tonumber(v[9]) or 0}
  if head.expires > 0 and head.expires <= now then
    return {state = 'absent', expired = true, created = now, updated = now, expires = 0, archived = '0',
      version = now, erased = 0, gaps = false, last = 0}, {}
  end
  return head, numbers
end

-- How many records are numbered up to `seq`. Numbers have no gaps, unless another store's had.
local function rank(list, head, seq)
  local count = redis.call('LLEN', list)
  if not head.gaps then return math.max(0, math.min(count, count - (head.last - seq))) end
  local low, high = 0, count
  while low < high do
    local middle = math.floor((low + high) / 2)
    if struct.unpack('>I8', redis.call('LINDEX', list, middle)) <= seq then low = middle + 1 else high = middle end
  end
  return low
end
"""
)

_CHANGES: Final = """
-- Redis collects a key once its millisecond is over: a fraction of one too early, never too late.
local function lapse(key, at)
  redis.call('PEXPIREAT', key, string.format('%.0f', math.floor(at / 1000) - 1))
end

-- An index in which every session expires does so with the last of them; the others shed what has expired.
local function note(recent, lapsing, member, updated, expires, known)
  redis.call('ZADD', recent, updated, member)
  if expires == known then return end
  if expires == 0 then
    redis.call('ZREM', lapsing, member)
  else
    redis.call('ZADD', lapsing, expires, member)
    local gone = redis.call('ZRANGEBYSCORE', lapsing, '-inf', now, 'LIMIT', 0, 100)
    many('ZREM', recent, gone)
    many('ZREM', lapsing, gone)
  end
  local final = redis.call('ZREVRANGE', lapsing, 0, 0, 'WITHSCORES')
  if final[2] and redis.call('ZCARD', recent) == redis.call('ZCARD', lapsing) then
    lapse(recent, tonumber(final[2]))
    lapse(lapsing, tonumber(final[2]))
  else
    redis.call('PERSIST', recent)
    redis.call('PERSIST', lapsing)
  end
end

local function forget(recent, lapsing, member)
  redis.call('ZREM', recent, member)
  redis.call('ZREM', lapsing, member)
end
"""

_SESSION: Final = """
local member = table.remove(ARGV)

local function note_all(head, known)
  for at = INDEXES, #KEYS, 2 do note(KEYS[at], KEYS[at + 1], member, head.updated, head.expires, known) end
end

local function forget_all()
  for at = INDEXES, #KEYS, 2 do forget(KEYS[at], KEYS[at + 1], member) end
end

local function clear()
  redis.call('UNLINK', unpack(KEYS, 1, INDEXES - 1))
end

local function lapse_all(at)
  for key = 1, INDEXES - 1 do lapse(KEYS[key], at) end
end

-- What an erased session leaves behind, its numbers and its version, goes on.
local function begin(head)
  if head.state == 'alive' then return 0 end
  if head.expired then clear() end
  head.state, head.created, head.updated, head.expires, head.archived = 'alive', now, now, 0, '0'
  redis.call('HSET', KEYS[1], 'state', 'alive', 'created', now, 'updated', now, 'expires', 0, 'archived', 0,
    'version', head.version, 'erased', head.erased, 'gaps', 0)
  redis.call('PERSIST', KEYS[1])
  return 1
end
"""


_DESCRIPTION: Final = """
local function describe(head)
  return {head.last, redis.call('LLEN', KEYS[2]), head.created, head.updated, head.expires, head.archived,
    head.version, redis.call('HGET', KEYS[1], 'description') or '', head.state}
end
"""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the hash by which a server remembers it."""

    text: str
    sha: str

    @classmethod
    def of(cls, *parts: str) -> Script:
        """Join the parts of a script."""
        text = "".join(parts)
        return cls(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


# ARGV: lane, ttl (0: none), sliding, expected_seq or '', not_erased_since or '', create, then id, body, ..., member.
# Answers what refused it, or: whether the session was begun, its change and expiry, and the number of each
# entry, negative where it was there already.
APPEND: Final = Script.of(
    _PRELUDE,
    _CHANGES,
    _SESSION,
    """
local lane, ttl, sliding = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local list, prefix = KEYS[LIST[lane]], (lane == 'messages' and '' or lane) .. ':'
local fields, seqs, elements = {}, {}, {}
for at = 7, #ARGV, 2 do fields[#fields + 1] = prefix .. ARGV[at] end
local head, numbers = find(lane, fields)
local known, last = head.expires, head.last
local changes = {'version', head.version + 1, 'updated', math.max(head.updated, now), 'last.' .. lane, last}

local given = {}
for at, field in ipairs(fields) do
  local there = numbers[at] or given[field]
  if there then
    seqs[at] = -there
  else
    last = last + 1
    seqs[at], given[field] = last, last
    changes[#changes + 1], changes[#changes + 2] = field, last
    local id, body = ARGV[5 + 2 * at], ARGV[6 + 2 * at]
    elements[#elements + 1] = struct.pack('>I8I8I4', last, now, #id) .. id .. body
  end
end

if #elements > 0 then
  if head.state == 'moved' then return {'moved'} end
  if ARGV[5] ~= '' and head.erased > tonumber(ARGV[5]) then return {'erased'} end
  if ARGV[6] == '0' and head.state ~= 'alive' then return {'absent'} end
  if ARGV[4] ~= '' and head.last ~= tonumber(ARGV[4]) then return {'ahead', head.last} end
elseif head.state ~= 'alive' then
  return {'nothing'}
end

local begun = begin(head)
if begun == 1 then known = -1 end
if #elements > 0 then
  head.updated, changes[6] = changes[4], last
  many('HSET', KEYS[1], changes)
  many('RPUSH', list, elements)
end
local renewed = ttl > 0 and (sliding or head.expires == 0)
if renewed then
  head.expires = now + ttl
  redis.call('HSET', KEYS[1], 'expires', head.expires)
  lapse_all(head.expires)
elseif head.expires > 0 and #elements > 0 and redis.call('LLEN', list) == #elements then
  lapse(list, head.expires)
end
note_all(head, known)
return {'appended', begun, head.updated, head.expires, seqs}
""",
)

# KEYS: 1 head, 2 the lane's list.  ARGV: lane, after, before or '', first or '', last or ''.
# Answers the lane's last number and its records.
READ: Final = Script.of(
    _PRELUDE,
    """
local head, list = find(ARGV[1]), KEYS[2]
if head.state == 'absent' then return {0, {}} end
local begin = rank(list, head, tonumber(ARGV[2]))
local stop = ARGV[3] == '' and redis.call('LLEN', list) or rank(list, head, tonumber(ARGV[3]) - 1)
if ARGV[4] ~= '' then stop = math.min(stop, begin + tonumber(ARGV[4])) end
if ARGV[5] ~= '' then begin = math.max(begin, stop - tonumber(ARGV[5])) end
if begin >= stop then return {head.last, {}} end
return {head.last, redis.call('LRANGE', list, begin, stop - 1)}
""",
)

# KEYS: 1 head, 2 the lane's list.  ARGV: lane, seq, body, expected body.
REPLACE: Final = Script.of(
    _PRELUDE,
    """
local head, list, seq = find(ARGV[1]), KEYS[2], tonumber(ARGV[2])
local at = rank(list, head, seq) - 1
local element = head.state == 'alive' and at >= 0 and redis.call('LINDEX', list, at)
if not element then return 0 end
local found, created, length = struct.unpack('>I8I8I4', element)
local id = element:sub(21, 20 + length)
if found ~= seq or element:sub(21 + length) ~= ARGV[4] then return 0 end
redis.call('LSET', list, at, struct.pack('>I8I8I4', seq, created, length) .. id .. ARGV[3])
redis.call('HINCRBY', KEYS[1], 'version', 1)
return 1
""",
)

# KEYS: 1 head, 2 the lane's list.  ARGV: lane, the last number to go.  Answers how many went.
TRIM: Final = Script.of(
    _PRELUDE,
    """
local lane, list = ARGV[1], KEYS[2]
local prefix = (lane == 'messages' and '' or lane) .. ':'
local head = find(lane)
if head.state ~= 'alive' then return 0 end
local count = rank(list, head, tonumber(ARGV[2]))
if count == 0 then return 0 end
for first = 0, count - 1, 256 do
  local fields = {}
  for at, element in ipairs(redis.call('LRANGE', list, first, math.min(first + 255, count - 1))) do
    local seq, created, length = struct.unpack('>I8I8I4', element)
    fields[at] = prefix .. element:sub(21, 20 + length)
  end
  redis.call('HDEL', KEYS[1], unpack(fields))
end
redis.call('LTRIM', list, count, -1)
redis.call('HINCRBY', KEYS[1], 'version', 1)
return count
""",
)

# ARGV: moved_version or '', how long the tombstone stays, member.  Answers 'changed', or how many messages went.
ERASE: Final = Script.of(
    _PRELUDE,
    _CHANGES,
    _SESSION,
    """
local head = find('messages')
local moved = ARGV[1] ~= ''
if moved and (head.state == 'absent' or head.version ~= tonumber(ARGV[1])) then return {'changed'} end
local kept = {}
for lane in pairs(LIST) do
  kept[#kept + 1] = 'last.' .. lane
  kept[#kept + 1] = not head.expired and redis.call('HGET', KEYS[1], 'last.' .. lane) or 0
end
local gone = head.expired and 0 or redis.call('LLEN', KEYS[2])
clear()
many('HSET', KEYS[1], kept)
if not moved then
  head.erased = head.last + 1
  redis.call('HSET', KEYS[1], 'last.messages', head.erased)
end
redis.call('HSET', KEYS[1], 'state', moved and 'moved' or 'erased', 'version', head.version + 1, 'erased', head.erased,
  'expires', now + tonumber(ARGV[2]))
lapse_all(now + tonumber(ARGV[2]))
forget_all()
return {'deleted', gone}
""",
)

# ARGV: description or '', whether it is given, archived or '', expires or '', create, member.
# Answers nothing, 'moved', or what is known.
DESCRIBE: Final = Script.of(
    _PRELUDE,
    _CHANGES,
    _SESSION,
    _DESCRIPTION,
    """
local head = find('messages')
local known = head.expires
if ARGV[5] == '1' and head.state ~= 'alive' then
  if head.state == 'moved' then return {'moved'} end
  begin(head)
  known = -1
end
if head.state ~= 'alive' then return {} end
local changed = known
if ARGV[2] == '1' then redis.call('HSET', KEYS[1], 'description', ARGV[1]) end
if ARGV[3] ~= '' then head.archived = ARGV[3] end
if ARGV[4] ~= '' then head.expires = tonumber(ARGV[4]) end
if ARGV[2] == '1' or ARGV[3] ~= '' or ARGV[4] ~= '' then
  head.version = head.version + 1
  redis.call('HSET', KEYS[1], 'version', head.version, 'archived', head.archived, 'expires', head.expires)
end
local reply = describe(head)
if head.expires ~= known then note_all(head, known) end
if ARGV[4] ~= '' then lapse_all(head.expires) end
return reply
""",
)

# KEYS: 1 head, 2 the list of messages.  Answers nothing or what is known.
INFO: Final = Script.of(
    _PRELUDE,
    _DESCRIPTION,
    """
local head = find('messages')
return head.state == 'alive' and describe(head) or {}
""",
)

# ARGV: over_version or '', created, updated, expires, archived, version, description, then for each lane, messages
# first: lane, last, first number or 0, how many, then id, record, ...; member.
LOAD: Final = Script.of(
    _PRELUDE,
    _CHANGES,
    _SESSION,
    """
local head = find('messages')
local first, last = tonumber(ARGV[10]), tonumber(ARGV[9])
local allowed = head.state == 'absent'
  or head.state == 'alive' and head.version == tonumber(ARGV[1])
  or head.state == 'moved' and last >= head.last
  or head.state == 'erased' and (first == 0 or first > head.erased)
if not allowed then return {'changed'} end
local given = {}
for lane in pairs(LIST) do given[lane] = find(lane).last end
clear()
local gaps, at = 0, 8
local fields = {}
while at <= #ARGV do
  local lane, final, start, count = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local prefix, elements = (lane == 'messages' and '' or lane) .. ':', {}
  final = math.max(final, given[lane])
  if count > 0 and final - start + 1 ~= count then gaps = 1 end
  for entry = at + 4, at + 2 + 2 * count, 2 do
    fields[#fields + 1], fields[#fields + 2] = prefix .. ARGV[entry], struct.unpack('>I8', ARGV[entry + 1])
    elements[#elements + 1] = ARGV[entry + 1]
  end
  fields[#fields + 1], fields[#fields + 2] = 'last.' .. lane, final
  many('RPUSH', KEYS[LIST[lane]], elements)
  at = at + 4 + 2 * count
end
local found = {updated = tonumber(ARGV[3]), expires = tonumber(ARGV[4])}
redis.call('HSET', KEYS[1], 'state', 'alive', 'created', ARGV[2], 'updated', ARGV[3], 'expires', ARGV[4],
  'archived', ARGV[5], 'version', math.max(head.version, tonumber(ARGV[6])) + 1, 'erased', head.erased, 'gaps', gaps)
if ARGV[7] ~= '' then redis.call('HSET', KEYS[1], 'description', ARGV[7]) end
many('HSET', KEYS[1], fields)
note_all(found, -1)
if found.expires > 0 then lapse_all(found.expires) end
return {'loaded'}
""",
)

# KEYS: an index.  ARGV: 'ZRANGE' or 'ZREVRANGE', limit, then the score and member to go on after, if any.
# Answers members and scores. Members of one score stand in their own order, so the place is searched for.
PAGE: Final = Script.of("""
local index, range, limit, score, member = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local low = 0
if score then
  local down = range == 'ZREVRANGE'
  low = down and redis.call('ZCOUNT', index, '(' .. score, '+inf') or redis.call('ZCOUNT', index, '-inf', '(' .. score)
  local high = low + redis.call('ZCOUNT', index, score, score)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local found = redis.call(range, index, middle, middle)[1]
    local passed = down and found >= member or not down and found <= member
    if passed then low = middle + 1 else high = middle end
  end
end
return redis.call(range, index, low, low + limit - 1, 'WITHSCORES')
""")

# KEYS: an index.  ARGV: member, updated, expires (0: never; -1: no longer listed).
NOTE: Final = Script.of(
    _PRELUDE,
    _CHANGES,
    """
if ARGV[3] == '-1' then
  forget(KEYS[1], KEYS[2], ARGV[1])
else
  note(KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), -1)
end
return 1
""",
)

# KEYS: an index.  ARGV: the score before which a listing that leads nowhere is removed, then member, score, ...
SWEEP: Final = Script.of(
    _PRELUDE,
    _CHANGES,
    """
for at = 2, #ARGV, 2 do
  local score = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[at]))
  if score and score == tonumber(ARGV[at + 1]) and score < now - tonumber(ARGV[1]) then
    forget(KEYS[1], KEYS[2], ARGV[at])
  end
end
return 1
""",
)
