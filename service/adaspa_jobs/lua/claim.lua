-- queued -> in_progress: the model's job that is next begins an attempt, under a lease with a token of its own.
-- Of two priorities with waiting jobs, the one goes first that has had less for its share; within one, the lowest place.
-- A lease that ran out first goes back to the queue (requeue.lua), where the attempts are counted.
-- A job for workers of a later version is passed over; its id is the answer if there is no other. So is a job that does
-- not fit into this worker's memory but into that of another live worker.
-- model, priorities (that it serves), worker, process (of it), version (of the record), nonce (for the token), given_up
-- (error of a job that is given up, JSON)
local model, worker = A.model, A.worker
local LOOKED_AT = 100

-- An attempt of this worker, if it has one, is not running: a worker runs one at a time, and this one asks for another.
local held = held_by(worker)
if held then
  if get(held, 'process') == A.process then  -- the answer to its claim, or to what ended its attempt, was lost
    begin_attempt(held, A.nonce)
    redis.call('ZADD', PREFIX .. 'leases', int(now() + LIMITS.lease_ms), held)
    emit(held, 'in_progress')
    return { held, redis.call('HGETALL', record(held)) }
  end
  lose_worker(held, A.given_up)  -- its process died
end

local function fits(told, id)
  if not told or told == '' then
    return true
  end
  local asked = cjson.decode(get(id, 'params'))
  local preset = type(asked.quality) == 'string' and asked.quality or ''
  local most = (cjson.decode(told).frames[preset] or {})[asked.width .. 'x' .. asked.height]
  return not most or asked.num_frames <= most
end

local function is_for_others(id)
  local own = redis.call('HGET', PREFIX .. 'fits:' .. model, worker)
  if fits(own, id) then
    return false
  end
  for _, other in ipairs(redis.call('ZRANGE', PREFIX .. 'workers:' .. model, int(steady()), '+inf', 'BYSCORE')) do
    if other ~= worker and fits(redis.call('HGET', PREFIX .. 'fits:' .. model, other), id) then
      return true
    end
  end
  return false
end

local newer
local function first_of(queue)
  for _, id in ipairs(redis.call('ZRANGE', PREFIX .. 'waiting:' .. queue, 0, LOOKED_AT - 1)) do
    if tonumber(get(id, 'schema_version')) > A.version then
      newer = id
    elseif not is_for_others(id) then
      return id
    end
  end
end

local function begin(id, priority, queue)
  local cost, owners = job(id).cost, PREFIX .. 'owners:' .. queue
  local share = priority == 'bulk' and LIMITS.bulk_share or 1 - LIMITS.bulk_share
  local present = tonumber(redis.call('HGET', PREFIX .. 'virtual', queue) or 0)
  local place = tonumber(redis.call('ZSCORE', PREFIX .. 'waiting:' .. queue, id))
  present = math.max(present, place)
  redis.call('HSET', record(id), 'place', real(place))
  redis.call('HSET', PREFIX .. 'virtual', queue, real(present))
  leave_queue(id)
  redis.call('ZREMRANGEBYSCORE', owners, '-inf', real(present))
  local shares = PREFIX .. 'share:' .. model
  local had = redis.call('HMGET', shares, priority, 'present')
  redis.call('HSET', shares, 'present', real(math.max(tonumber(had[1] or 0), tonumber(had[2] or 0))))
  redis.call('HINCRBYFLOAT', shares, priority, real(cost / share))
  begin_attempt(id, A.nonce)
  redis.call('HSET', record(id), 'status', 'in_progress', 'worker', worker, 'process', A.process)
  redis.call('HSETNX', record(id), 'started_at', seconds(now()))
  redis.call('ZADD', PREFIX .. 'running:' .. model, int(steady()), id)
  redis.call('ZADD', PREFIX .. 'leases', int(now() + LIMITS.lease_ms), id)
  redis.call('HSET', PREFIX .. 'leases_by_worker', worker, id)
  emit(id, 'in_progress')
  return { id, redis.call('HGETALL', record(id)) }
end

local function had(priority)
  return tonumber(redis.call('HGET', PREFIX .. 'share:' .. model, priority) or 0)
end
table.sort(A.priorities, function(a, b)
  if had(a) == had(b) then
    return a == 'interactive' and b == 'bulk'
  end
  return had(a) < had(b)
end)
for _, priority in ipairs(A.priorities) do
  local queue = queue_of(model, priority)
  local id = first_of(queue)
  if id then
    return begin(id, priority, queue)
  end
end
return newer or false
