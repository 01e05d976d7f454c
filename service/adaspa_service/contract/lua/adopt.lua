-- Jobs of version 1, which knew no owners: listed under `jobs`, their idempotency keys without an owner before them.
-- A gateway of that version may go on writing so while an update rolls out. Up to 100 a call.
local ids = redis.call('ZRANGE', PREFIX .. 'jobs', 0, 99)
for _, id in ipairs(ids) do
  redis.call('ZREM', PREFIX .. 'jobs', id)
  redis.call('ZADD', PREFIX .. 'jobs:' .. OPEN, 0, id)
  local status, key = get(id, 'status'), get(id, 'idempotency')
  if status == 'queued' or status == 'in_progress' then
    redis.call('SADD', PREFIX .. 'unfinished:' .. OPEN, id)
  end
  redis.call('HSET', record(id), 'owner', OPEN)
  if key and key ~= '' and redis.call('EXISTS', PREFIX .. 'idempotency:' .. key) == 1 then
    redis.call('RENAME', PREFIX .. 'idempotency:' .. key, PREFIX .. 'idempotency:' .. OPEN .. ':' .. key)
    redis.call('HSET', record(id), 'idempotency', OPEN .. ':' .. key)
  end
end
return #ids
