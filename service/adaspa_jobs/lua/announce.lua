#!lua flags=allow-oom
-- A worker says which model it serves, and which of its priorities; how many bells it is to ring for each of them. One
-- worker at a time is told, and not so many that it would be busy for long.
-- model, spec (its catalog entry, JSON), holds_ms (for how long that holds), worker, counts_ms (for how long it counts),
-- priorities, fits? (what fits into its memory, JSON)
local model, worker, counts = A.model, A.worker, int(steady() + A.counts_ms)
redis.call('HSET', PREFIX .. 'served', model, A.spec)
redis.call('HSETNX', PREFIX .. 'served_since', model, seconds(now()))
redis.call('ZADD', PREFIX .. 'served_until', int(steady() + A.holds_ms), model)
redis.call('ZADD', PREFIX .. 'workers:' .. model, counts, worker)
for _, gone in ipairs(redis.call('ZRANGE', PREFIX .. 'workers:' .. model, '-inf', int(steady()), 'BYSCORE')) do
  redis.call('HDEL', PREFIX .. 'fits:' .. model, gone)
end
redis.call('ZREMRANGEBYSCORE', PREFIX .. 'workers:' .. model, '-inf', int(steady()))
if A.fits then
  redis.call('HSET', PREFIX .. 'fits:' .. model, worker, A.fits)
else
  redis.call('HDEL', PREFIX .. 'fits:' .. model, worker)
end
for _, priority in ipairs({ 'interactive', 'bulk' }) do
  redis.call('ZREM', PREFIX .. 'serving:' .. queue_of(model, priority), worker)
end
local RUNG_MS, AT_ONCE = 1000, 100
local bells = {}
for i, priority in ipairs(A.priorities) do
  local queue = queue_of(model, priority)
  local serving, lacking = PREFIX .. 'serving:' .. queue, lacking_bells(queue)
  if lacking > 0 and math.abs(now() - tonumber(redis.call('HGET', PREFIX .. 'rung', queue) or 0)) < RUNG_MS then
    lacking = 0
  elseif lacking > 0 then
    redis.call('HSET', PREFIX .. 'rung', queue, int(now()))
  end
  bells[i] = math.min(lacking, AT_ONCE)
  redis.call('ZADD', serving, counts, worker)
  redis.call('HSET', PREFIX .. 'served_at', queue, int(steady()))
  redis.call('ZREMRANGEBYSCORE', serving, '-inf', int(steady()))
end
return bells
