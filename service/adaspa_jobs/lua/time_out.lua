#!lua flags=allow-oom
-- Fail jobs that have waited too long: for their turn, for any worker that serves their queue, or for one whose catalog
-- entry has what they ask for. Up to 100 of a queue a call.
-- wait_ms (how long a job may wait), unserved_ms (how long for any worker), timed_out, unserved, unoffered (their errors, JSON)
look()
local failed = {}
local function late(kind, queue, before)
  return redis.call('ZRANGE', PREFIX .. kind .. queue, '-inf', int(before), 'BYSCORE', 'LIMIT', 0, 100)
end
local function fail(ids, failure)
  for_each(ids, function(id)
    finish(id, 'failed', failure)
    failed[#failed + 1] = id
  end)
end
-- Scripts of an earlier version leave here what has gone from the queue.
local function unoffered(queue, before)
  local waiting = {}
  for _, id in ipairs(late('unoffered:', queue, before)) do
    if redis.call('ZSCORE', PREFIX .. 'waiting:' .. queue, id) then
      waiting[#waiting + 1] = id
    else
      redis.call('ZREM', PREFIX .. 'unoffered:' .. queue, id)
    end
  end
  return waiting
end
for _, queue in ipairs(redis.call('SMEMBERS', PREFIX .. 'queues')) do
  fail(late('arrivals:', queue, steady() - A.wait_ms), A.timed_out)
  fail(unoffered(queue, steady() - A.unserved_ms), A.unoffered)
  if steady() - tonumber(redis.call('HGET', PREFIX .. 'served_at', queue) or 0) > A.unserved_ms then
    fail(late('arrivals:', queue, steady() - A.unserved_ms), A.unserved)
  end
end
return failed
