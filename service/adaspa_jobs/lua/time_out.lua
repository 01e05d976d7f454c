#!lua flags=allow-oom
-- Fail jobs that have waited too long for a worker. Up to 100 of a queue a call.
-- wait_ms (how long a job may wait), error (theirs, JSON)
look()
local failed = {}
for _, queue in ipairs(redis.call('SMEMBERS', PREFIX .. 'queues')) do
  local arrivals = PREFIX .. 'arrivals:' .. queue
  for _, id in ipairs(redis.call('ZRANGE', arrivals, '-inf', int(STEADY - A.wait_ms), 'BYSCORE', 'LIMIT', 0, 100)) do
    redis.call('HSET', record(id), 'error', A.error)
    finish(id, 'failed')
    failed[#failed + 1] = id
  end
end
return failed
