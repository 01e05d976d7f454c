-- Accept one job or several: idempotency, limits, records and places in the queue, all or nothing.
-- model, owner, keyed (whether that is an API key, which must still hold), priority, cost (of each), version (the lowest
-- that can run them), max_in_flight? (unfinished jobs that the owner may have), idempotency? ('{owner}:{key}'), digest? (of the
-- request), webhook_url?, metadata? (JSON), user?, trace (of the request or ''), inputs? (folder of the images that they are made of), shared (whether it is another job's, which may be gone),
-- params (JSON of each), steps (of each), random (of each, a part of its id)
local owner, idempotency, count = A.owner, A.idempotency, #A.params

local known = idempotency and repeated(idempotency, A.digest)
if known then
  return known
end
if A.keyed then
  local key = redis.call('HMGET', PREFIX .. 'key:' .. owner, 'digest', 'expires_at')
  local ends = tonumber(key[2])
  if not key[1] or (ends and now() >= ends * 1000) then
    return { 'no_key' }
  end
end
if A.inputs and A.shared and redis.call('EXISTS', PREFIX .. 'inputs:' .. A.inputs) == 0 then
  return { 'no_inputs' }
end
if A.inputs and not A.shared and not redis.call('ZSCORE', PREFIX .. 'awaited_inputs', A.inputs) then
  return { 'late_inputs' }  -- a janitor may have removed them
end
-- Of a job whose record is gone nobody can say whose it was, so its owner is free of it here.
local unfinished = PREFIX .. 'unfinished:' .. owner
if A.max_in_flight and redis.call('SCARD', unfinished) + count > A.max_in_flight then
  for _, id in ipairs(redis.call('SMEMBERS', unfinished)) do
    if redis.call('EXISTS', record(id)) == 0 then
      redis.call('SREM', unfinished, id)
    end
  end
  if redis.call('SCARD', unfinished) + count > A.max_in_flight then
    return { 'in_flight' }
  end
end
-- A full queue has room for an owner who has less than an even part of it: no one's jobs keep everybody else out.
local queue = queue_of(A.model, A.priority)
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

if A.inputs then
  redis.call('ZREM', PREFIX .. 'awaited_inputs', A.inputs)
end
local ids, answer = {}, { 'created', 0, {} }
for i, params in ipairs(A.params) do
  local id = new_id(A.random[i])
  local fields = { 'owner', owner, 'model', A.model, 'params', params, 'created_at', seconds(now()), 'attempt', '0',
    'lost_attempts', '0', 'schema_version', int(A.version), 'priority', A.priority, 'cost', real(A.cost),
    'trace', A.trace, 'idempotency', i == 1 and idempotency or '' }  -- of several the first: with it the key is forgotten
  for _, name in ipairs({ 'webhook_url', 'metadata', 'user', 'inputs' }) do
    if A[name] then
      fields[#fields + 1] = name
      fields[#fields + 1] = A[name]
    end
  end
  if A.inputs then
    redis.call('SADD', PREFIX .. 'inputs:' .. A.inputs, id)
  end
  redis.call('ZADD', PREFIX .. 'jobs:' .. owner, 0, id)
  redis.call('SADD', PREFIX .. 'unfinished:' .. owner, id)
  know(id, owner, A.model, A.priority, A.cost)
  join_queue(id, nil, '0', A.steps[i], unpack(fields))
  ids[i] = id
  answer[#answer + 1] = { id, redis.call('HGETALL', record(id)) }
end
if idempotency then
  redis.call('HSET', PREFIX .. 'idempotency:' .. idempotency, 'id', ids[1], 'digest', A.digest, 'batch', table.concat(ids, ','))
end
answer[2] = math.min(count, lacking_bells(queue))
for i, id in ipairs(ids) do
  answer[3][i] = redis.call('ZRANK', PREFIX .. 'waiting:' .. queue, id) + 1
end
return answer
