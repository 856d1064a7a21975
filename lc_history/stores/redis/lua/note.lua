-- KEYS: an index.  ARGV: member, updated, expires (0: never; -1: no longer listed).
-- Notes of one session may come in another order than its changes: an older one changes nothing, and of two as old
-- as each other the longer life counts.

local recent, lapsing, member, updated, expires = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local known = tonumber(redis.call('ZSCORE', recent, member) or 0)
if expires == -1 then
  forget(recent, lapsing, member)
elseif updated >= known then
  if updated == known and expires > 0 then
    expires = math.max(expires, tonumber(redis.call('ZSCORE', lapsing, member) or 0))
  end
  redis.call('ZADD', recent, ARGV[2], member)
  relist(recent, lapsing, member, expires)
end
return 1
