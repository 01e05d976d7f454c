-- How busy a model is: workers, the paces of its latest jobs, seconds that each running job has run and its cost; then
-- for each of its queues the jobs that wait, their summed cost, and how long (ms) the first that came has waited.
-- ARGV: 2 model
local model = ARGV[2]
local running = {}
local began = redis.call('ZRANGE', PREFIX .. 'running:' .. model, 0, -1, 'WITHSCORES')
for i = 1, #began, 2 do
  running[#running + 1] = { real((NOW - began[i + 1]) / 1000), real(cost_of(began[i])) }
end
local queues = {}
for _, queue in ipairs({ model, model .. ':bulk' }) do
  local oldest = redis.call('ZRANGE', PREFIX .. 'arrivals:' .. queue, 0, 0, 'WITHSCORES')[2]
  queues[#queues + 1] = {
    redis.call('ZCARD', PREFIX .. 'waiting:' .. queue),
    redis.call('HGET', PREFIX .. 'backlog', queue) or '0',
    int(oldest and NOW - oldest or 0),
  }
end
local workers = redis.call('ZCOUNT', PREFIX .. 'workers:' .. model, int(NOW), '+inf')
return { workers, redis.call('LRANGE', PREFIX .. 'paces:' .. model, 0, -1), running, queues }
