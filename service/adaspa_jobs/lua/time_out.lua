#!lua flags=allow-oom
-- Fail jobs that have waited too long for a worker. Up to 100 of a queue a call.
-- ARGV: 2 how long a job may wait (ms), 3 their error (JSON)
local failed = {}
for _, queue in ipairs(redis.call('SMEMBERS', PREFIX .. 'queues')) do
  local arrivals = PREFIX .. 'arrivals:' .. queue
  for _, id in ipairs(redis.call('ZRANGE', arrivals, '-inf', int(NOW - ARGV[2]), 'BYSCORE', 'LIMIT', 0, 100)) do
    redis.call('HSET', record(id), 'error', ARGV[3])
    finish(id, 'failed')
    failed[#failed + 1] = id
  end
end
return failed
