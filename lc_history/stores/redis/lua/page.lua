-- KEYS: an index.  ARGV: 'ZRANGE' or 'ZREVRANGE', limit, then the score and member to go on after, if any.
-- Answers members and scores. Members of one score stand in their own order, so the place is searched for.

-- Redis sorts by bytes; Lua's own comparison asks the locale.
local function precedes(one, other)
  for at = 1, math.min(#one, #other) do
    local left, right = one:byte(at), other:byte(at)
    if left ~= right then return left < right end
  end
  return #one < #other
end

local index, range, limit, score, member = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local low = 0
if score then
  local down = range == 'ZREVRANGE'
  low = down and redis.call('ZCOUNT', index, '(' .. score, '+inf') or redis.call('ZCOUNT', index, '-inf', '(' .. score)
  local high = low + redis.call('ZCOUNT', index, score, score)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local found = redis.call(range, index, middle, middle)[1]
    if found == member or precedes(found, member) ~= down then low = middle + 1 else high = middle end
  end
end
return redis.call(range, index, low, low + limit - 1, 'WITHSCORES')
