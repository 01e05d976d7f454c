-- Accept one job or several: idempotency, limits, records and places in the queue, all or nothing.
-- ARGV: 2 model, 3 owner, 4 '{owner}:{idempotency key}' or '', 5 digest of the request,
-- 6 the lowest version that can run them, 7 unfinished jobs that the owner may have, or '', 8 priority, 9 cost of each,
-- 10 webhook_url or '', 11 trace of the request or '', then for each job: params (JSON), random part of its id
local model, owner, idempotency, digest, version, in_flight = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local priority, cost, webhook_url = ARGV[8], ARGV[9], ARGV[10]
local FIRST = 12  -- argument of the first job
local count = (#ARGV - FIRST + 1) / 2

local known = idempotency ~= '' and repeated(idempotency, digest)
if known then
  return known
end
if in_flight ~= '' and redis.call('SCARD', PREFIX .. 'unfinished:' .. owner) + count > tonumber(in_flight) then
  return { 'in_flight' }
end
-- A full queue has room for an owner who has less than an even part of it: no one's jobs keep everybody else out.
local queue = queue_of(model, priority)
if redis.call('ZCARD', PREFIX .. 'waiting:' .. queue) + count > LIMITS.queue_cap then
  local own = tonumber(redis.call('HGET', PREFIX .. 'owned:' .. queue, owner) or 0)
  local owners = redis.call('HLEN', PREFIX .. 'owned:' .. queue) + (own == 0 and 1 or 0)
  if own + count > LIMITS.queue_cap / owners then
    return { 'full' }
  end
end

-- Strictly increasing, so that ids sort in the order of their creation even when the clock is set back.
local function new_id(random)
  local last = tonumber(redis.call('GET', PREFIX .. 'last_id') or '0')
  local us = math.max(now_us(), last + 1)
  redis.call('SET', PREFIX .. 'last_id', int(us))
  local high = math.floor(us / 4294967296)
  return string.format('video_%06x%08x%s', high, us - high * 4294967296, random)
end

local ids, answer = {}, { 'created', 0 }
for i = FIRST, #ARGV, 2 do
  local id = new_id(ARGV[i + 1])
  redis.call('HSET', record(id), 'status', 'queued', 'owner', owner, 'model', model, 'params', ARGV[i],
    'created_at', seconds(NOW), 'attempt', '0', 'lost_attempts', '0', 'schema_version', version,
    'priority', priority, 'cost', cost, 'trace', ARGV[11],
    'idempotency', #ids == 0 and idempotency or '')  -- of several the first: with it the key is forgotten
  if webhook_url ~= '' then
    redis.call('HSET', record(id), 'webhook_url', webhook_url)
  end
  redis.call('ZADD', PREFIX .. 'jobs:' .. owner, 0, id)
  redis.call('SADD', PREFIX .. 'unfinished:' .. owner, id)
  join_queue(id)
  ids[#ids + 1] = id
  answer[#answer + 1] = { id, redis.call('HGETALL', record(id)) }
end
if idempotency ~= '' then
  redis.call('HSET', PREFIX .. 'idempotency:' .. idempotency, 'id', ids[1], 'digest', digest, 'batch', table.concat(ids, ','))
end
answer[2] = math.min(count, lacking_bells(queue))
return answer
