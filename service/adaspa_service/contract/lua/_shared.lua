-- Put before every script. ARGV[1] holds the store's limits as JSON; a script's own arguments follow it.
-- Keys are built here, so one server is needed and not a cluster.
--   job:{id}         hash    the record
--   jobs:{owner}     zset    ids that are listed, all with score 0: ids sort by their time of creation
--   unfinished:{owner} set   ids of an owner's queued and running jobs
--   waiting:{model}  zset    queued jobs by the time (ms) they joined the queue
--   running:{model}  zset    jobs in progress by the time (ms) their attempt began
--   leases           zset    jobs in progress by the time (ms) their lease runs out
--   outbox           zset    queued jobs whose message may not have been sent, by the time (ms) to send it
--   expiry           zset    ended jobs by the time (ms) they are to be removed
--   purge            zset    discarded, ended jobs whose files and record are to be removed, by time (ms)
--   durations:{model} list   seconds of the latest completed jobs
--   ended            hash    jobs that ended since the store was made, by {model}|{status}|{error code or ''}
--   leases_lost      hash    leases that ran out, by model
--   served           hash    catalog entries that workers announced, by model
--   served_until     zset    models by the time (ms) until which their latest announcement holds
--   events:{id}      stream  a job's transitions and steps
--   idempotency:{owner}:{key} hash  id of the job that a key created (of several the first, and all as batch), and
--                                   the digest of its request
--   keys             zset    ids of API keys by the time (s) of their creation
--   key:{id}         hash    an API key: what it may do, and the SHA-256 of its secret, and of the one before
--   keys_required    string  there once a key was made: from then on every request needs one
--   rate:{id}        string  the time (ms) at which a key may again send a minute's requests at once
--   signing_secret   string  what signed links are signed with
--   last_id          string  the latest id's time (us)
local PREFIX = 'adaspa:'
local LIMITS = cjson.decode(ARGV[1])
local OPEN = 'open'  -- OPEN_OWNER of job.py
local EVENTS_KEPT = 1000

local function int(number)
  return string.format('%.0f', number)
end

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local NOW = math.floor(now_us() / 1000)  -- ms

local function seconds(ms)
  return int(math.floor(ms / 1000))
end

local function record(id)
  return PREFIX .. 'job:' .. id
end

local function get(id, field)
  return redis.call('HGET', record(id), field)
end

local function emit(id, kind)
  local fields = redis.call('HMGET', record(id), 'status', 'attempt', 'progress')
  redis.call('XADD', PREFIX .. 'events:' .. id, 'MAXLEN', '~', EVENTS_KEPT, '*',
    'type', kind, 'status', fields[1], 'attempt', fields[2], 'progress', fields[3])
end

-- Records of version 1 have no owner: they were made while every caller saw every job.
local function owner_of(id)
  return get(id, 'owner') or OPEN
end

-- Why this attempt may not act on the job, or nil.
local function refusal(id, attempt)
  local fields = redis.call('HMGET', record(id), 'status', 'attempt', 'cancel_requested')
  if fields[1] ~= 'in_progress' or fields[2] ~= attempt then
    return 'lost'
  end
  if fields[3] == '1' then
    return 'cancelled'
  end
end

-- Whether this attempt has already brought the job into this state: its answer was lost, and it asks again.
local function already(id, attempt, status)
  local fields = redis.call('HMGET', record(id), 'status', 'attempt')
  return fields[1] == status and fields[2] == attempt
end

local function leave_running(id)
  redis.call('ZREM', PREFIX .. 'running:' .. get(id, 'model'), id)
  redis.call('ZREM', PREFIX .. 'leases', id)
end

-- since: the time (ms) that decides its place; send_at: when the outbox is to send its message.
local function join_queue(id, since, send_at)
  local steps = cjson.decode(get(id, 'params')).steps
  redis.call('HSET', record(id), 'status', 'queued', 'worker', '',
    'progress', cjson.encode({ phase = 'queued', step = 0, steps = steps }))
  redis.call('ZADD', PREFIX .. 'waiting:' .. get(id, 'model'), int(since), id)
  redis.call('ZADD', PREFIX .. 'outbox', int(send_at), id)
  emit(id, 'queued')
end

-- What every end has in common.
local function finish(id, status)
  leave_running(id)
  local model, failure = get(id, 'model'), get(id, 'error')
  local code = status == 'failed' and failure and cjson.decode(failure).code or ''
  redis.call('HINCRBY', PREFIX .. 'ended', model .. '|' .. status .. '|' .. code, 1)
  redis.call('ZREM', PREFIX .. 'waiting:' .. model, id)
  redis.call('ZREM', PREFIX .. 'outbox', id)
  redis.call('SREM', PREFIX .. 'unfinished:' .. owner_of(id), id)
  local expires = NOW + LIMITS.ttl_ms
  redis.call('HSET', record(id), 'status', status, 'completed_at', seconds(NOW), 'expires_at', seconds(expires))
  if get(id, 'discarded') == '1' then
    redis.call('ZADD', PREFIX .. 'purge', int(NOW), id)
  else
    redis.call('ZADD', PREFIX .. 'expiry', int(expires), id)
  end
  emit(id, status)
end

-- Hide a job for good. Its files and record go once no worker holds it.
local function discard(id)
  local status = get(id, 'status')
  redis.call('HSET', record(id), 'discarded', '1')
  redis.call('ZREM', PREFIX .. 'jobs:' .. owner_of(id), id)
  redis.call('ZREM', PREFIX .. 'expiry', id)
  local key = get(id, 'idempotency')
  if key and key ~= '' then
    redis.call('DEL', PREFIX .. 'idempotency:' .. key)
  end
  if status == 'queued' then
    redis.call('HSET', record(id), 'cancel_requested', '1')
    finish(id, 'cancelled')
  elseif status == 'in_progress' then
    redis.call('HSET', record(id), 'cancel_requested', '1')
  else
    redis.call('ZADD', PREFIX .. 'purge', int(NOW), id)
  end
end
