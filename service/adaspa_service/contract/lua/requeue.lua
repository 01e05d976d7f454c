-- Jobs whose lease ran out: cancelled if that was asked for, failed once too many attempts were lost, else queued.
-- ARGV: 2 error of a job that is given up (JSON)
local requeued = {}
for _, id in ipairs(redis.call('ZRANGE', PREFIX .. 'leases', '-inf', int(NOW), 'BYSCORE', 'LIMIT', 0, 100)) do
  local running = get(id, 'status') == 'in_progress'
  local lost = running and redis.call('HINCRBY', record(id), 'lost_attempts', 1)
  if lost then
    redis.call('HINCRBY', PREFIX .. 'leases_lost', get(id, 'model'), 1)
  end
  if not running then  -- a lease without its job, such as a restored backup may hold
    redis.call('ZREM', PREFIX .. 'leases', id)
  elseif get(id, 'cancel_requested') == '1' then
    finish(id, 'cancelled')
  elseif lost >= LIMITS.max_attempts then
    redis.call('HSET', record(id), 'error', ARGV[2])
    finish(id, 'failed')
  else
    leave_running(id)
    join_queue(id, NOW, NOW)
    requeued[#requeued + 1] = id
  end
end
return requeued
