#!lua flags=allow-oom
-- A worker says which model it serves, and which of its priorities; how many bells it is to ring for each of them. One
-- worker at a time is told, and not so many that it would be busy for long.
-- ARGV: 2 model, 3 its catalog entry (JSON), 4 for how long that holds (ms), 5 worker, 6 for how long it counts (ms),
--       7... the priorities
local model, worker, counts = ARGV[2], ARGV[5], int(NOW + ARGV[6])
redis.call('HSET', PREFIX .. 'served', model, ARGV[3])
redis.call('ZADD', PREFIX .. 'served_until', int(NOW + ARGV[4]), model)
redis.call('ZADD', PREFIX .. 'workers:' .. model, counts, worker)
redis.call('ZREMRANGEBYSCORE', PREFIX .. 'workers:' .. model, '-inf', int(NOW))
for _, priority in ipairs({ 'interactive', 'bulk' }) do
  redis.call('ZREM', PREFIX .. 'serving:' .. queue_of(model, priority), worker)
end
local RUNG_MS, AT_ONCE = 1000, 100
local bells = {}
for i = 7, #ARGV do
  local queue = queue_of(model, ARGV[i])
  local serving, lacking = PREFIX .. 'serving:' .. queue, lacking_bells(queue)
  if lacking > 0 and math.abs(NOW - tonumber(redis.call('HGET', PREFIX .. 'rung', queue) or 0)) < RUNG_MS then
    lacking = 0
  elseif lacking > 0 then
    redis.call('HSET', PREFIX .. 'rung', queue, int(NOW))
  end
  bells[#bells + 1] = math.min(lacking, AT_ONCE)
  redis.call('ZADD', serving, counts, worker)
  redis.call('ZREMRANGEBYSCORE', serving, '-inf', int(NOW))
end
return bells
