#!lua flags=allow-oom
-- Jobs whose lease ran out: their workers are lost.
-- Janitors look every second. If none has for longer than a third of a lease, neither they nor the workers may have
-- been able to: Redis was away, and whoever still runs a job gets the time of a lease to say so.
-- given_up (error of a job that is given up, JSON), gap_ms (a gap that is none)
local last = tonumber(redis.call('GET', PREFIX .. 'swept_at') or NOW)
redis.call('SET', PREFIX .. 'swept_at', int(NOW))
if NOW - last > math.max(LIMITS.lease_ms / 3, A.gap_ms) then
  local renewed = int(NOW + LIMITS.lease_ms)
  for _, id in ipairs(redis.call('ZRANGE', PREFIX .. 'leases', '-inf', renewed, 'BYSCORE')) do
    redis.call('ZADD', PREFIX .. 'leases', renewed, id)
  end
end

local requeued = {}
for _, id in ipairs(redis.call('ZRANGE', PREFIX .. 'leases', '-inf', int(NOW), 'BYSCORE', 'LIMIT', 0, 100)) do
  if get(id, 'status') ~= 'in_progress' then  -- a lease without its job, such as a restored backup may hold
    redis.call('ZREM', PREFIX .. 'leases', id)
  elseif lose_worker(id, A.given_up) then
    requeued[#requeued + 1] = id
  end
end
return requeued
