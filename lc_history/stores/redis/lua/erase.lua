-- ARGV: moved_version or '', only 'alive' or 'moved' or '', how long the tombstone stays, member.
-- Answers what refused it, or how many messages went.

local head = find('messages')
local moved = ARGV[1] ~= ''
if moved and (head.state ~= 'alive' or head.version ~= tonumber(ARGV[1])) then return {'changed'} end
if ARGV[2] ~= '' and head.state ~= ARGV[2] then return {'other'} end
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
redis.call('HSET', KEYS[1], 'state', moved and 'moved' or 'erased', 'version', head.version + (moved and 0 or 1),
  'erased', head.erased,
  'expires', now + tonumber(ARGV[3]))
lapse_all(now + tonumber(ARGV[3]))
forget_all()
return {'deleted', gone}
