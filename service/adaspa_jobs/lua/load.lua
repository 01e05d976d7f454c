-- How busy a model is: workers, the paces of its latest jobs, seconds that each running job has run, its cost, and for
-- each queue whether its worker serves it (0 or 1); then for each of the queues the jobs that wait, their summed cost, how
-- long (ms) the first that came has waited, the workers that serve it, and what fits into the memory of each (JSON, or '' if
-- it did not tell) and, while any worker serves it, of those that are gone but may come back; then when (s) the model was
-- announced first.
-- model
local model = A.model
local names = { model, model .. ':bulk' }
local workers = redis.call('ZRANGE', PREFIX .. 'workers:' .. model, int(steady()), '+inf', 'BYSCORE')
local queues = {}
for i, queue in ipairs(names) do
  local serving = redis.call('ZRANGE', PREFIX .. 'serving:' .. queue, int(steady()), '+inf', 'BYSCORE')
  local fits, told_by = {}, {}
  for j, worker in ipairs(serving) do
    fits[j], told_by[worker] = redis.call('HGET', PREFIX .. 'fits:' .. model, worker) or '', true
  end
  local lately = #serving > 0 and redis.call('ZRANGE', PREFIX .. 'fitting:' .. queue, int(steady()), '+inf', 'BYSCORE') or {}
  for _, worker in ipairs(lately) do
    fits[#fits + 1] = not told_by[worker] and redis.call('HGET', PREFIX .. 'fits:' .. model, worker) or nil
  end
  local oldest = redis.call('ZRANGE', PREFIX .. 'arrivals:' .. queue, 0, 0, 'WITHSCORES')[2]
  queues[i] = {
    redis.call('ZCARD', PREFIX .. 'waiting:' .. queue),
    redis.call('HGET', PREFIX .. 'backlog', queue) or '0',
    int(oldest and steady() - oldest or 0),
    #serving,
    fits,
  }
end
local running = {}
local began = redis.call('ZRANGE', PREFIX .. 'running:' .. model, 0, -1, 'WITHSCORES')
for i = 1, #began, 2 do
  local fields = redis.call('HMGET', record(began[i]), 'worker', 'cost')
  local cost = tonumber(fields[2])
  if cost then  -- else the record is gone or cannot be read, and the job is set aside in a moment
    local one = { real((steady() - began[i + 1]) / 1000), real(cost) }
    for _, queue in ipairs(names) do
      one[#one + 1] = redis.call('ZSCORE', PREFIX .. 'serving:' .. queue, fields[1] or '') and 1 or 0
    end
    running[#running + 1] = one
  end
end
return { #workers, redis.call('LRANGE', PREFIX .. 'paces:' .. model, 0, -1), running, queues,
  redis.call('HGET', PREFIX .. 'served_since', model) }
