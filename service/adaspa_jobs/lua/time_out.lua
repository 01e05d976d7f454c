#!lua flags=allow-oom
-- Fail jobs that have waited too long: for their turn, or for any worker that serves their queue. Up to 100 of a queue a
-- call.
-- wait_ms (how long a job may wait), unserved_ms (how long for any worker), timed_out, unserved (their errors, JSON)
look()
local failed = {}
local function fail(queue, before, failure)
  local late = redis.call('ZRANGE', PREFIX .. 'arrivals:' .. queue, '-inf', int(before), 'BYSCORE', 'LIMIT', 0, 100)
  for_each(late, function(id)
    finish(id, 'failed', failure)
    failed[#failed + 1] = id
  end)
end
for _, queue in ipairs(redis.call('SMEMBERS', PREFIX .. 'queues')) do
  fail(queue, steady() - A.wait_ms, A.timed_out)
  if steady() - tonumber(redis.call('HGET', PREFIX .. 'served_at', queue) or 0) > A.unserved_ms then
    fail(queue, steady() - A.unserved_ms, A.unserved)
  end
end
return failed
