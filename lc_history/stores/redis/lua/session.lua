local member = table.remove(ARGV)

local function note_all(head, known)
  for at = INDEXES, #KEYS, 2 do note(KEYS[at], KEYS[at + 1], member, head.updated, head.expires, known) end
end

local function forget_all()
  for at = INDEXES, #KEYS, 2 do forget(KEYS[at], KEYS[at + 1], member) end
end

local function clear()
  redis.call('UNLINK', unpack(KEYS, 1, INDEXES - 1))
end

local function lapse_all(at)
  for key = 1, INDEXES - 1 do lapse(KEYS[key], at) end
end

-- What an erased session leaves behind, its numbers and its version, goes on.
local function begin(head)
  if head.state == 'alive' then return 0 end
  if head.expired then clear() end
  head.state, head.created, head.updated, head.expires, head.archived = 'alive', now, now, 0, '0'
  redis.call('HSET', KEYS[1], 'state', 'alive', 'created', now, 'updated', now, 'expires', 0, 'archived', 0,
    'version', head.version, 'erased', head.erased, 'gaps', 0)
  redis.call('PERSIST', KEYS[1])
  return 1
end
