#!lua flags=allow-oom
-- A worker says which model it serves, and which of its priorities.
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
for i = 7, #ARGV do
  local serving = PREFIX .. 'serving:' .. queue_of(model, ARGV[i])
  redis.call('ZADD', serving, counts, worker)
  redis.call('ZREMRANGEBYSCORE', serving, '-inf', int(NOW))
end
return 'ok'
