-- KEYS: 1 head, 2 the lane's list.  ARGV: lane, after, before or '', first or '', last or ''.
-- Answers the lane's last number and its records.

local head, list = find(ARGV[1]), KEYS[2]
if head.state == 'absent' then return {0, {}} end
local begin = rank(list, head, tonumber(ARGV[2]))
local stop = ARGV[3] == '' and redis.call('LLEN', list) or rank(list, head, tonumber(ARGV[3]) - 1)
if ARGV[4] ~= '' then stop = math.min(stop, begin + tonumber(ARGV[4])) end
if ARGV[5] ~= '' then begin = math.max(begin, stop - tonumber(ARGV[5])) end
if begin >= stop then return {head.last, {}} end
return {head.last, redis.call('LRANGE', list, begin, stop - 1)}
