-- KEYS: an index.  ARGV: member, updated, expires (0: never; -1: no longer listed).

if ARGV[3] == '-1' then
  forget(KEYS[1], KEYS[2], ARGV[1])
else
  redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
  relist(KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[3]))
end
return 1
