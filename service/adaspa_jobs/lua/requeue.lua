#!lua flags=allow-oom
-- Jobs whose lease ran out: their workers are lost.
-- given_up (error of a job that is given up, JSON)
look()
local requeued = {}
for_each(redis.call('ZRANGE', PREFIX .. 'leases', '-inf', int(now()), 'BYSCORE', 'LIMIT', 0, 100), function(id)
  if get(id, 'status') ~= 'in_progress' then  -- a lease without its job, such as a restored backup may hold
    redis.call('ZREM', PREFIX .. 'leases', id)
  elseif lose_worker(id, A.given_up) then
    requeued[#requeued + 1] = id
  end
end)
return requeued
