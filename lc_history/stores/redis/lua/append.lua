-- ARGV: lane, ttl (0: none), sliding, expected_seq or '', not_erased_since or '', create, shortens, then id,
-- body, ..., member.
-- Answers what refused it, or: whether the session was begun, its change and expiry, and the number of each
-- entry, negative where it was there already.

local lane, ttl, sliding = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local list, prefix = KEYS[LIST[lane]], (lane == 'messages' and '' or lane) .. ':'
local fields, seqs, elements = {}, {}, {}
for at = 8, #ARGV, 2 do fields[#fields + 1] = prefix .. ARGV[at] end
local head, numbers = find(lane, fields)
local last, updated = head.last, string.format('%.0f', math.max(head.updated, now))  -- as Lua writes it, it is rounded
-- Where Redis was let evict the head alone, numbers go on above those of the records that are left.
local tail = last == 0 and not head.expired and redis.call('LINDEX', list, -1)
if tail then last = struct.unpack('>I8', tail) end
local changes = {'version', head.version + 1, 'updated', updated, 'last.' .. lane, last}

local given = {}
for at, field in ipairs(fields) do
  local there = numbers[at] or given[field]
  if there then
    seqs[at] = -there
  else
    last = last + 1
    seqs[at], given[field] = last, last
    changes[#changes + 1], changes[#changes + 2] = field, last
    local id, body = ARGV[6 + 2 * at], ARGV[7 + 2 * at]
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

if ttl > 0 and ARGV[7] == '0' and head.state == 'alive'
  and (head.expires == 0 or sliding and now + ttl < head.expires) then return {'sooner'} end

local begun = begin(head)
if #elements > 0 then
  head.updated, changes[6] = tonumber(updated), last
else
  updated, changes = head.updated, {}
end
local renewed = ttl > 0 and (sliding or head.expires == 0)
if renewed then
  head.expires = now + ttl
  if #elements == 0 then changes = {'version', head.version + 1} end
  changes[#changes + 1], changes[#changes + 2] = 'expires', head.expires
end
many('RPUSH', list, elements)  -- first, so that no id is known whose record could not be written
many('HSET', KEYS[1], changes)
if renewed then
  lapse_all(head.expires)
elseif head.expires > 0 and #elements > 0 and redis.call('LLEN', list) == #elements then
  lapse(list, head.expires)
end
note_all(head, updated, sliding and math.floor(ttl / 8) or 0)
return {'appended', begun, head.updated, head.expires, seqs}
