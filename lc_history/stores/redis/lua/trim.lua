-- KEYS: 1 head, 2 the lane's list.  ARGV: lane, the last number to go.  Answers how many went.

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
