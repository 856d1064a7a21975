-- ARGV: over_version or '', created, updated, expires, archived, version, description, then for each lane, messages
-- first: lane, last, first number or 0, how many, then id, record, ...; member.

local head = find('messages')
local first, version = tonumber(ARGV[10]), tonumber(ARGV[6])
local allowed = head.state == 'absent'
  or head.state == 'alive' and head.version == tonumber(ARGV[1])
  or head.state == 'moved' and version >= head.version
  or head.state == 'erased' and (first == 0 or first > head.erased)
if not allowed then return {'changed'} end
if head.state == 'alive' or head.state == 'erased' then version = math.max(head.version, version) + 1 end
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
local found = {expires = tonumber(ARGV[4]), noted = -1}
redis.call('HSET', KEYS[1], 'state', 'alive', 'created', ARGV[2], 'updated', ARGV[3], 'expires', ARGV[4],
  'archived', ARGV[5], 'version', version, 'erased', head.erased, 'gaps', gaps)
if ARGV[7] ~= '' then redis.call('HSET', KEYS[1], 'description', ARGV[7]) end
many('HSET', KEYS[1], fields)
note_all(found, ARGV[3], 0)
if found.expires > 0 then lapse_all(found.expires) end
return {'loaded'}
