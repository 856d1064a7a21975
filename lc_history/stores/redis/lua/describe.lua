-- ARGV: description or '', whether it is given, archived or '', expires or '', create, member.
-- Answers nothing, 'moved', or what is known.

local head = find('messages')
local begun = 0
if ARGV[5] == '1' and head.state ~= 'alive' then
  if head.state == 'moved' then return {'moved'} end
  begun = begin(head)
end
if head.state ~= 'alive' then return {} end
if ARGV[2] == '1' then redis.call('HSET', KEYS[1], 'description', ARGV[1]) end
if ARGV[3] ~= '' then head.archived = ARGV[3] end
if ARGV[4] ~= '' then head.expires = tonumber(ARGV[4]) end
if ARGV[2] == '1' or ARGV[3] ~= '' or ARGV[4] ~= '' then
  head.version = head.version + 1
  redis.call('HSET', KEYS[1], 'version', head.version, 'archived', head.archived, 'expires', head.expires)
end
local reply = known_of(head)
if begun == 1 or ARGV[4] ~= '' then note_all(head, head.updated, 0) end
if ARGV[4] ~= '' then lapse_all(head.expires) end
return reply
