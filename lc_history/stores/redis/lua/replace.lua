-- KEYS: 1 head, 2 the lane's list.  ARGV: lane, seq, body, expected body.

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
