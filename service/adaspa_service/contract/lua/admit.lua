-- Accept a job: idempotency, queue cap, record and place in the queue, all or nothing.
-- ARGV: 2 model, 3 params (JSON), 4 random part of the id, 5 owner, 6 '{owner}:{idempotency key}' or '',
-- 7 digest of the request, 8 the lowest version that can run it
local model, params, random, owner, idempotency, digest = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local idempotency_key = PREFIX .. 'idempotency:' .. idempotency

if idempotency ~= '' then
  local known = redis.call('HMGET', idempotency_key, 'id', 'digest')
  if known[1] then
    if known[2] ~= digest then
      return { 'conflict', known[1] }
    end
    return { 'known', known[1], redis.call('HGETALL', record(known[1])) }
  end
end
if redis.call('ZCARD', PREFIX .. 'waiting:' .. model) >= LIMITS.queue_cap then
  return { 'full' }
end

-- Strictly increasing, so that ids sort in the order of their creation even when the clock is set back.
local last = tonumber(redis.call('GET', PREFIX .. 'last_id') or '0')
local us = math.max(now_us(), last + 1)
redis.call('SET', PREFIX .. 'last_id', int(us))
local high = math.floor(us / 4294967296)
local id = string.format('video_%06x%08x%s', high, us - high * 4294967296, random)

redis.call('HSET', record(id), 'status', 'queued', 'owner', owner, 'model', model, 'params', params, 'created_at', seconds(NOW),
  'attempt', '0', 'lost_attempts', '0', 'idempotency', idempotency, 'schema_version', ARGV[8])
redis.call('ZADD', PREFIX .. 'jobs:' .. owner, 0, id)
redis.call('SADD', PREFIX .. 'unfinished:' .. owner, id)
if idempotency ~= '' then
  redis.call('HSET', idempotency_key, 'id', id, 'digest', digest)
end
join_queue(id, NOW, NOW + LIMITS.send_ms)
return { 'created', id, redis.call('HGETALL', record(id)) }
