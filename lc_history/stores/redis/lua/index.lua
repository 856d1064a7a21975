-- Redis collects a key once its millisecond is over: a fraction of one too early, never too late.
local function lapse(key, at)
  redis.call('PEXPIREAT', key, string.format('%.0f', math.floor(at / 1000) - 1))
end

-- An index in which every session expires does so with the last of them; the others shed what has expired.
local function relist(recent, lapsing, member, expires)
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
