-- queued -> in_progress: the model's job that is next begins an attempt, under a lease with a token of its own.
-- Of two priorities with waiting jobs, the one goes first that has had less for its share; within one, the lowest place.
-- A lease that ran out first goes back to the queue (requeue.lua), where the attempts are counted.
-- A job for workers of a later version is passed over. So is one that asks for inputs, sound or adapters that this worker's
-- catalog entry lacks, or that fits into another worker's memory alone, be that live or heard from lately. If there is no
-- other, the answer is the id of the first of them, and what it requires of a worker.
-- model, priorities (that it serves), worker, process (of it), version (of the record), offers? (by its catalog entry:
-- inputs by their roles, adapters' hashes by name, max_loras, audio), gpus? (by it, too), nonce (for the token), given_up
-- (error of a job that is given up, JSON)
local model, worker = A.model, A.worker
local LOOKED_AT = 1000

-- An attempt of this worker, if it has one, is not running: a worker runs one at a time, and this one asks for another.
local held = held_by(worker)
if held then
  if get(held, 'process') == A.process then  -- the answer to its claim, or to what ended its attempt, was lost
    begin_attempt(held, A.nonce, get(held, 'attempt'), get(held, 'params'))
    redis.call('ZADD', PREFIX .. 'leases', int(now() + LIMITS.lease_ms), held)
    return { held, redis.call('HGETALL', record(held)) }
  end
  lose_worker(held, A.given_up)  -- its process died
end

local function entry(value, key)
  return type(value) == 'table' and value[key] or nil
end

-- What a worker told of its memory may be unknown, or unreadable, and then everything fits.
local function fits(told, asked)
  local preset = type(asked.quality) == 'string' and asked.quality or ''
  local by_size = entry(parsed(told).frames, preset)
  local most = tonumber(entry(by_size, tostring(asked.width) .. 'x' .. tostring(asked.height)))
  return not most or (tonumber(asked.num_frames) or 0) <= most
end

-- Only those that serve its queue: others would never take it. One that is gone may come back, as after a restart, and its
-- jobs would end out of memory here; but if an earlier version's scripts removed what it told, nobody knows of it.
local function fits_elsewhere(asked, queue)
  local told = PREFIX .. 'fits:' .. model
  if fits(redis.call('HGET', told, worker), asked) then
    return false
  end
  for _, kind in ipairs({ 'serving:', 'fitting:' }) do
    for _, other in ipairs(redis.call('ZRANGE', PREFIX .. kind .. queue, int(steady()), '+inf', 'BYSCORE')) do
      local of_other = redis.call('HGET', told, other)
      if (of_other or kind == 'serving:') and fits(of_other, asked) then
        return true
      end
    end
  end
  return false
end

-- Many jobs that wait ask for the same size and length.
local verdicts = {}
local function is_for_others(asked, queue)
  local kind = queue
  for _, name in ipairs({ 'quality', 'width', 'height', 'num_frames' }) do
    kind = kind .. ' ' .. tostring(asked[name])
  end
  if verdicts[kind] == nil then
    verdicts[kind] = fits_elsewhere(asked, queue)
  end
  return verdicts[kind]
end

local function list(value)
  return type(value) == 'table' and value or {}
end

-- What a job asks for that this worker's catalog entry lacks, in words; nil if that is nothing.
local function lacking(asked)
  if not A.offers then
    return nil
  end
  local roles = {}
  for i, given in ipairs(list(asked.inputs)) do
    roles[i] = tostring(entry(given, 'role'))
  end
  table.sort(roles)
  if not A.offers.inputs[table.concat(roles, ',')] then
    return 'whose catalog entry has ' .. (#roles > 0 and 'the inputs ' .. table.concat(roles, ', ') or 'a task without inputs')
  end
  if asked.audio == true and not A.offers.audio then
    return 'whose catalog entry has sound'
  end
  if #list(asked.loras) > A.offers.max_loras then
    return 'whose catalog entry allows ' .. #asked.loras .. ' adapters'
  end
  for _, use in ipairs(list(asked.loras)) do
    local name, hash = tostring(entry(use, 'name')), entry(use, 'sha256')
    local own = A.offers.loras[name]
    if (tonumber(entry(use, 'scale')) or 0) ~= 0 and (not own or (type(hash) == 'string' and hash ~= own)) then
      return 'whose catalog entry has the adapter ' .. name .. ' with this SHA-256'
    end
  end
end

local function entries_are_alike()
  local entries = PREFIX .. 'entries:' .. model
  local own = redis.call('HGET', entries, worker)
  for _, other in ipairs(redis.call('ZRANGE', PREFIX .. 'workers:' .. model, int(steady()), '+inf', 'BYSCORE')) do
    if redis.call('HGET', entries, other) ~= own then
      return false
    end
  end
  return true
end

-- While all live workers have one entry, none can run what it lacks: such a job waits for a worker as long as for any.
local alike
local function note_unoffered(id, queue)
  if alike == nil then
    alike = entries_are_alike()
  end
  if alike then
    redis.call('ZADD', PREFIX .. 'unoffered:' .. queue, 'NX', int(steady()), id)
  else
    redis.call('ZREM', PREFIX .. 'unoffered:' .. queue, id)
  end
end

-- What an attempt needs to know of a waiting job, and whether this worker may run it.
local passed
local function pass(id, requires)
  passed = passed or id .. ' ' .. requires
end
local function look_at(id, queue)
  local fields, whole, asked = read(id)
  local lacks = whole and lacking(asked)
  if not whole then
    set_aside(id)
  elseif tonumber(fields.schema_version) > A.version then
    pass(id, 'of a later version')
  elseif lacks then
    pass(id, lacks)
    note_unoffered(id, queue)
  elseif is_for_others(asked, queue) then
    pass(id, 'with more memory')
  else
    know(id, fields.owner, fields.model, fields.priority, fields.cost)
    return { id = id, attempt = fields.attempt, params = fields.params, started_at = fields.started_at }
  end
end

-- Nearly always it is the first one.
local function first_of(queue)
  for _, part in ipairs({ { 0, 0 }, { 0, LOOKED_AT - 1 } }) do
    for _, id in ipairs(redis.call('ZRANGE', PREFIX .. 'waiting:' .. queue, part[1], part[2])) do
      local found = look_at(id, queue)
      if found then
        return found
      end
    end
  end
end

local shares = PREFIX .. 'share:' .. model
local had = redis.call('HMGET', shares, 'interactive', 'bulk', 'present')
had = { interactive = tonumber(had[1] or 0), bulk = tonumber(had[2] or 0), present = tonumber(had[3] or 0) }

local function begin(first, priority, queue)
  local id, owners = first.id, PREFIX .. 'owners:' .. queue
  local share = priority == 'bulk' and LIMITS.bulk_share or 1 - LIMITS.bulk_share
  local place = tonumber(redis.call('ZSCORE', PREFIX .. 'waiting:' .. queue, id))
  local present = math.max(tonumber(redis.call('HGET', PREFIX .. 'virtual', queue) or 0), place)
  redis.call('HSET', PREFIX .. 'virtual', queue, real(present))
  leave_queue(id)
  redis.call('ZREMRANGEBYSCORE', owners, '-inf', real(present))
  redis.call('HSET', shares, 'present', real(math.max(had[priority], had.present)),
    priority, real(had[priority] + job(id).cost / share))
  begin_attempt(id, A.nonce, first.attempt, first.params, 'status', 'in_progress', 'worker', worker, 'process', A.process,
    'place', real(place), 'started_at', first.started_at or seconds(now()))
  redis.call('ZADD', PREFIX .. 'running:' .. model, int(steady()), id)
  redis.call('ZADD', PREFIX .. 'leases', int(now() + LIMITS.lease_ms), id)
  redis.call('HSET', PREFIX .. 'leases_by_worker', worker, id)
  return { id, redis.call('HGETALL', record(id)) }
end

table.sort(A.priorities, function(a, b)
  if had[a] == had[b] then
    return a == 'interactive' and b == 'bulk'
  end
  return had[a] < had[b]
end)
for _, priority in ipairs(A.priorities) do
  local queue = queue_of(model, priority)
  local first = first_of(queue)
  if first then
    return begin(first, priority, queue)
  end
end
return passed or false
