#!lua flags=allow-oom
-- A worker says which model it serves, and which of its priorities; how many bells it is to ring for each of them. One
-- worker at a time is told, and not so many that it would be busy for long.
-- model, holds_ms (for how long its entry holds), worker, counts_ms (for how long it counts), priorities (one or both),
-- fits? (what fits into its memory, JSON), remembers_ms (for how long that is remembered); ARGV[3]: the model's catalog
-- entry, JSON
local model, worker, counts = A.model, A.worker, int(steady() + A.counts_ms)
local PRIORITIES = { 'interactive', 'bulk' }

local function serving(priority)
  return PREFIX .. 'serving:' .. queue_of(model, priority)
end

local function fitting(priority)
  return PREFIX .. 'fitting:' .. queue_of(model, priority)
end

-- Workers of a model may have different entries, as while a catalog is changed: the one that came or changed last counts,
-- until its worker is gone. Jobs that ask for what no entry has wait from now on for the next worker.
local workers, entries, digest = PREFIX .. 'workers:' .. model, PREFIX .. 'entries:' .. model, redis.sha1hex(CONTENT)
local by = redis.call('HGET', PREFIX .. 'served_by', model)
local until_ms = by and tonumber(redis.call('ZSCORE', workers, by))
if redis.call('HGET', entries, worker) ~= digest or by == worker or not until_ms or until_ms <= steady()
    or not redis.call('HGET', PREFIX .. 'served', model) then
  redis.call('HSET', PREFIX .. 'served', model, CONTENT)
  redis.call('HSET', PREFIX .. 'served_by', model, worker)
end
if redis.call('HGET', entries, worker) ~= digest then
  for _, priority in ipairs(PRIORITIES) do
    redis.call('DEL', PREFIX .. 'unoffered:' .. queue_of(model, priority))
  end
end
redis.call('HSET', entries, worker, digest)
redis.call('HSETNX', PREFIX .. 'served_since', model, seconds(now()))
redis.call('ZADD', PREFIX .. 'served_until', int(steady() + A.holds_ms), model)
redis.call('ZADD', workers, counts, worker)
for _, gone in ipairs(redis.call('ZRANGE', workers, '-inf', int(steady()), 'BYSCORE')) do
  redis.call('ZREM', workers, gone)
  for _, priority in ipairs(PRIORITIES) do
    redis.call('ZREM', serving(priority), gone)
  end
end
local announced = redis.call('HGETALL', entries)
for i = 1, #announced, 2 do
  if not redis.call('ZSCORE', workers, announced[i]) then
    redis.call('HDEL', entries, announced[i])
  end
end

local RUNG_MS, AT_ONCE = 1000, 100
local bells, serves, served_at = {}, {}, {}
for i, priority in ipairs(A.priorities) do
  local queue = queue_of(model, priority)
  local lacking = lacking_bells(queue)
  if lacking > 0 and math.abs(now() - tonumber(redis.call('HGET', PREFIX .. 'rung', queue) or 0)) < RUNG_MS then
    lacking = 0
  elseif lacking > 0 then
    redis.call('HSET', PREFIX .. 'rung', queue, int(now()))
  end
  bells[i] = math.min(lacking, AT_ONCE)
  redis.call('ZADD', serving(priority), counts, worker)
  serves[priority] = true
  served_at[2 * i - 1], served_at[2 * i] = queue, int(steady())
end
redis.call('HSET', PREFIX .. 'served_at', unpack(served_at))
for _, priority in ipairs(PRIORITIES) do
  if not serves[priority] then
    redis.call('ZREM', serving(priority), worker)
  end
  if serves[priority] and A.fits then
    redis.call('ZADD', fitting(priority), int(steady() + A.remembers_ms), worker)
  else
    redis.call('ZREM', fitting(priority), worker)
  end
end

local told = PREFIX .. 'fits:' .. model
if A.fits then
  redis.call('HSET', told, worker, A.fits)
else
  redis.call('HDEL', told, worker)
end
for i, priority in ipairs(PRIORITIES) do
  for _, gone in ipairs(redis.call('ZRANGE', fitting(priority), '-inf', int(steady()), 'BYSCORE')) do
    redis.call('ZREM', fitting(priority), gone)
    if not redis.call('ZSCORE', fitting(PRIORITIES[3 - i]), gone) then
      redis.call('HDEL', told, gone)
    end
  end
end
return bells
