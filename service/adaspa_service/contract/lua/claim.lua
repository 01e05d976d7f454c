-- queued -> in_progress, under a lease with the next attempt number. Nothing else can be claimed: a lease that ran
-- out first goes back to the queue (requeue.lua), where the attempts are counted.
-- A job for workers of a later version is left, and its message, which ends here, is sent again.
-- ARGV: 2 id, 3 worker, 4 the worker's version of the record
local id, worker = ARGV[2], ARGV[3]
if get(id, 'status') ~= 'queued' then
  return false
end
if tonumber(get(id, 'schema_version') or 1) > tonumber(ARGV[4]) then
  redis.call('ZADD', PREFIX .. 'outbox', int(NOW + LIMITS.send_ms), id)
  return 'newer'
end
local model = get(id, 'model')
redis.call('HINCRBY', record(id), 'attempt', 1)
redis.call('HSET', record(id), 'status', 'in_progress', 'worker', worker)
redis.call('HSETNX', record(id), 'started_at', seconds(NOW))
redis.call('ZREM', PREFIX .. 'waiting:' .. model, id)
redis.call('ZREM', PREFIX .. 'outbox', id)
redis.call('ZADD', PREFIX .. 'running:' .. model, int(NOW), id)
redis.call('ZADD', PREFIX .. 'leases', int(NOW + LIMITS.lease_ms), id)
emit(id, 'in_progress')
return redis.call('HGETALL', record(id))
