local member = table.remove(ARGV)

-- A session that lives on is listed as lapsing `spare` later than it does, so that not every turn has to say so again.
local function note_all(head, updated, spare)
  if #KEYS < INDEXES then return end
  local renewed = head.noted < 0 or head.expires > head.noted or (head.expires == 0) ~= (head.noted == 0)
  if renewed then
    head.noted = head.expires == 0 and 0 or head.expires + spare
    redis.call('HSET', KEYS[1], 'noted', head.noted)
  end
  for at = INDEXES, #KEYS, 2 do
    redis.call('ZADD', KEYS[at], updated, member)
    if renewed then relist(KEYS[at], KEYS[at + 1], member, head.noted) end
  end
end

local function forget_all()
  for at = INDEXES, #KEYS, 2 do forget(KEYS[at], KEYS[at + 1], member) end
end

local function clear()
  redis.call('UNLINK', unpack(KEYS, 1, INDEXES - 1))
end

local function lapse_all(at)
  for place, last in ipairs(redis.call('HMGET', KEYS[1], unpack(LASTS))) do
    if last then lapse(KEYS[place + 1], at) end
  end
  lapse(KEYS[1], at)  -- last: it is gone with this where the time is past
end

-- What an erased session leaves behind, its numbers and its version, goes on.
local function begin(head)
  if head.state == 'alive' then return 0 end
  if head.expired then clear() end
  head.state, head.created, head.updated, head.expires, head.archived, head.noted = 'alive', now, now, 0, '0', -1
  redis.call('HSET', KEYS[1], 'state', 'alive', 'created', now, 'updated', now, 'expires', 0, 'archived', 0,
    'version', head.version, 'erased', head.erased, 'gaps', 0)
  redis.call('PERSIST', KEYS[1])
  -- Records are left where Redis was let evict the head alone: they are the session's, and end with it.
  for lane, place in pairs(LIST) do
    local newest = redis.call('LINDEX', KEYS[place], -1)
    if newest then
      redis.call('HSET', KEYS[1], 'last.' .. lane, (struct.unpack('>I8', newest)))
      redis.call('PERSIST', KEYS[place])
    end
  end
  return 1
end
