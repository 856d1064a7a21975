local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

-- Lua hands over at most some 8,000 arguments at once.
local function many(command, key, values)
  for first = 1, #values, 4000 do
    redis.call(command, key, unpack(values, first, math.min(first + 3999, #values)))
  end
end

-- An expired session is no session, also in the moment before Redis collects it. With the head comes the number
-- of each id that is asked for. A session that is new has a version that none before it had. `noted` is when the
-- indexes take it to lapse: 0 is never, -1 not said yet.
local function find(lane, ids)
  local asked = ids and math.min(#ids, 4000) or 0
  local v = redis.call('HMGET', KEYS[1], 'state', 'created', 'updated', 'expires', 'archived', 'version', 'erased',
    'gaps', 'noted', 'last.' .. lane, unpack(ids or {}, 1, asked))
  local head = {state = v[1] or 'absent', created = tonumber(v[2]) or now, updated = tonumber(v[3]) or now,
    expires = tonumber(v[4]) or 0, archived = v[5] or '0', version = tonumber(v[6]) or now,
    erased = tonumber(v[7]) or 0, gaps = v[8] == '1', noted = tonumber(v[9]) or -1, last = tonumber(v[10]) or 0}
  if head.expires > 0 and head.expires <= now then
    return {state = 'absent', expired = true, created = now, updated = now, expires = 0, archived = '0',
      version = now, erased = 0, gaps = false, noted = -1, last = 0}, {}
  end
  local numbers = {}
  for at = 1, asked do numbers[at] = tonumber(v[10 + at]) end
  for first = 4001, ids and #ids or 0, 4000 do
    local found = redis.call('HMGET', KEYS[1], unpack(ids, first, math.min(first + 3999, #ids)))
    for at = 1, #found do numbers[first + at - 1] = tonumber(found[at]) end
  end
  return head, numbers
end

-- How many records are numbered up to `seq`. Numbers have no gaps, unless another store's had.
local function rank(list, head, seq)
  local count = redis.call('LLEN', list)
  if not head.gaps then return math.max(0, math.min(count, count - (head.last - seq))) end
  local low, high = 0, count
  while low < high do
    local middle = math.floor((low + high) / 2)
    if struct.unpack('>I8', redis.call('LINDEX', list, middle)) <= seq then low = middle + 1 else high = middle end
  end
  return low
end
