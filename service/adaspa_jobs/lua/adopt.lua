-- Jobs of version 1, which knew no owners: listed under `jobs`, their idempotency keys without an owner before them;
-- and which let jobs wait by the time (ms) they came, where a place is now a virtual time, by far smaller.
-- A gateway of that version may go on writing so while an update rolls out. Up to 100 of each a call.
-- ARGV: 2... the served models
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
local found = #ids
for i = 2, #ARGV do
  local waiting = PREFIX .. 'waiting:' .. ARGV[i]
  for _, id in ipairs(redis.call('ZRANGE', waiting, 1e11, '+inf', 'BYSCORE', 'LIMIT', 0, 100)) do
    local place = next_place(id, ARGV[i])
    redis.call('ZADD', PREFIX .. 'mine:' .. ARGV[i] .. ':' .. owner_of(id), real(place), id)
    redis.call('SADD', PREFIX .. 'queues', ARGV[i])
    redis.call('ZADD', PREFIX .. 'arrivals:' .. ARGV[i], redis.call('ZSCORE', waiting, id), id)
    redis.call('ZADD', waiting, real(place), id)
    redis.call('HINCRBYFLOAT', PREFIX .. 'backlog', ARGV[i], cost_of(id))
    redis.call('HINCRBY', PREFIX .. 'owned:' .. ARGV[i], owner_of(id), 1)
    found = found + 1
  end
end
return found
