-- What a listing shows of a session.
local function known_of(head)
  return {head.last, redis.call('LLEN', KEYS[2]), head.created, head.updated, head.expires, head.archived,
    head.version, redis.call('HGET', KEYS[1], 'description') or ''}
end
