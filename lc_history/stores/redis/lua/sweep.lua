-- KEYS: an index.  ARGV: the age at which a listing that leads nowhere is removed, its member, its score.

local score = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[2]))
if score and score == tonumber(ARGV[3]) and score < now - tonumber(ARGV[1]) then forget(KEYS[1], KEYS[2], ARGV[2]) end
return 1
