-- Put before every script. ARGV: the store's limits and the script's own arguments, both as JSON, and bytes, CONTENT. Each
-- script says which arguments it has; those that are marked ? may be missing.
-- Keys are built here, so one server is needed and not a cluster.
--   job:{id}         hash    the record
--   jobs:{owner}     zset    ids that are listed, all with score 0: ids sort by their time of creation
--   unfinished:{owner} set   ids of an owner's queued and running jobs
--   queues           set     every {queue} that ever held a job: '{model}', and '{model}:bulk' for its bulk jobs
--   waiting:{queue}  zset    queued jobs by their place: the owner's virtual time at which the job is to begin
--   arrivals:{queue} zset    the same jobs by the time (ms) they joined the queue
--   waiting_by_owner:{queue}:{owner} zset  an owner's part of waiting:{queue}
--   owners:{queue}   zset    owners by the virtual time at which their last job is to end
--   owned:{queue}    hash    by owner, how many of its jobs wait
--   virtual          hash    by queue, the place of the job that was begun last
--   backlog          hash    by queue, the summed cost of the jobs that wait
--   share:{model}    hash    by priority, the cost of the jobs that were begun, over the priority's share; and as present
--                            what the priority of the job that was begun last had before it
--   running:{model}  zset    jobs in progress by the time (ms) their attempt began
--   leases           zset    jobs in progress by the time (ms) their lease runs out
--   swept_at         string  when (ms, by the clock) a janitor last looked
--   skipped          string  how much (ms) the clock went on, or back, while no janitor looked
--   leases_by_worker hash    by worker, the job it has a lease of
--   expiry           zset    ended jobs by the time (ms) they are to be removed
--   purge            zset    discarded, ended jobs whose files and record are to be removed, by time (ms)
--   leavings         zset    other ended jobs whose attempts may have left files that are not the result, the same way
--   inputs:{folder}  set     ids of the jobs that are made of the images in this folder of storage
--   awaited_inputs   zset    folders of images whose request is not admitted yet, by the time (ms) until which it may be
--   lost_inputs      zset    those whose request was not: their images are to be removed
--   paces:{model}    list    seconds that the latest completed jobs took for each unit of their cost
--   times:{model}:{preset} list  what the latest completed jobs of a preset took, as JSON; 'default': of the model's own settings
--   ended            hash    jobs that ended since the store was made, by {model}|{status}|{error code or ''}
--   usage:{day}      hash    what an owner's jobs of a model came to on that day (since 1970, UTC), by {owner}|{model}|{what}:
--                            jobs that ended so, and gpu_ms, for which they held GPUs
--   leases_lost      hash    leases that ran out, by model
--   served_at        hash    by queue, when (ms) a worker last said that it serves it
--   served           hash    catalog entries that workers announced, by model
--   served_by        hash    by model, the worker whose entry that is
--   entries:{model}  hash    by worker, the SHA-1 of the entry that it announces
--   served_since     hash    by model, when (s) a worker announced it first
--   served_until     zset    models by the time (ms) until which their latest announcement holds
--   workers:{model}  zset    its workers, the same way
--   serving:{queue}  zset    those of them that serve this queue
--   fits:{model}     hash    by worker, what fits into its memory (JSON), of those that say so
--   fitting:{queue}  zset    those of them that serve this queue by the time (ms) until which what fits there is left to
--                            them, though they are gone
--   unoffered:{queue} zset   waiting jobs that ask for what no live worker's catalog entry has, by when (ms) that was noticed
--   rung             hash    by queue, when (ms) a worker was last told to ring its bells
--   set_aside        list    ids of jobs that were taken out of queues and leases because their records cannot be read
--   events:{id}      stream  a job's transitions and steps
--   preview:{id}     hash    the latest preview of a running job: its step and its WebP
--   idempotency:{owner}:{key} hash  id of the job that a key created (of several the first, and all as batch), and
--                                   the digest of its request
--   keys             zset    ids of API keys by the time (s) of their creation
--   key:{id}         hash    an API key: what it may do, and the SHA-256 of its secret, and of the one before
--   keys_required    string  there once a key was made: from then on every request needs one
--   rate:{id}        string  the time (ms) at which a key may again send a minute's requests at once
--   signing_secret   string  what signed links are signed with
--   last_id          string  the latest id's time (us)
--   webhook:{id}     hash    a job's event on its way to the job's webhook_url, or given up
--   webhooks         zset    jobs with a waiting event by the time (ms) of its next attempt
--   webhook_lane:{lane} zset the same for one lane; a receiver has four, and one attempt at a time in each
--   webhook_lanes    zset    lanes by the time (ms) they are to be looked at
--   webhook_busy:{lane} string  there while an attempt is made, for as long as that may last
--   webhook_trying:{owner} zset  jobs with an attempt under way by the time (ms) until which it may last
--   webhooks_dead    zset    jobs whose event was given up, by the time (ms) of that
--   webhook_counts   hash    attempts|{outcome} and ended|{delivered, dead, dropped, damaged}, since the store was made
--   webhook_secrets  zset    signing secrets by the time (ms) until which they hold
local PREFIX = 'adaspa:'
local LIMITS, A, CONTENT = cjson.decode(ARGV[1]), cjson.decode(ARGV[2]), ARGV[3]
local EVENTS_KEPT = 1000
local MOVED_UP = 1000

local function int(number)
  return string.format('%.0f', number)
end

local function real(number)
  return string.format('%.17g', number)
end

-- The clock, in us and in ms; and how much of it did not count. Read when first asked for: not every script needs them.
local us, skipped

local function now_us()
  if not us then
    local time = redis.call('TIME')
    us = time[1] * 1000000 + time[2]
  end
  return us
end

local function now()
  return math.floor(now_us() / 1000)
end

-- What is told to people is told by the clock, and so is when a webhook is due. How long jobs wait, run and are kept is
-- counted by the time (ms) that passes while janitors look: a clock that is set a day ahead, or a machine that was
-- suspended, must not fail what waits and delete what is kept. All zsets by time are by this one, but for webhooks' and
-- leases, which janitors give anew once time was skipped.
local function steady()
  skipped = skipped or tonumber(redis.call('GET', PREFIX .. 'skipped') or 0)
  return now() - skipped
end

-- A number that the worker of a running job told as it began this attempt. One of an earlier version does not, and leaves
-- what another one told of an attempt before.
local function told(id, field)
  local value, attempt = unpack(redis.call('HMGET', PREFIX .. 'job:' .. id, field, 'attempt'))
  local number, of = string.match(value or '', '^(%d+) (%d+)$')
  return of and of == attempt and tonumber(number) or nil
end

-- How long (ms) the lease of a running job is: its worker's own setting, which may not be this one's.
local function lease_of(id)
  return told(id, 'lease_ms') or LIMITS.lease_ms
end

-- Janitors look every second. If none has for longer than a third of a lease, neither they nor the workers may have been
-- able to, or the clock was set: that time does not count, and whoever still runs a job gets a lease's time to say so.
-- They note it a few times within that third, not at each look: a write may have to wait for the disk.
local function look()
  local longest = math.max(LIMITS.lease_ms / 3, LIMITS.gap_ms)
  local last = redis.call('GET', PREFIX .. 'swept_at')
  local passed = now() - tonumber(last or now())
  if not last or passed < 0 or passed > longest / 4 then
    redis.call('SET', PREFIX .. 'swept_at', int(now()))
  end
  if passed < 0 or passed > longest then
    skipped = redis.call('INCRBY', PREFIX .. 'skipped', int(passed))
    for _, id in ipairs(redis.call('ZRANGE', PREFIX .. 'leases', 0, -1)) do
      redis.call('ZADD', PREFIX .. 'leases', int(now() + lease_of(id)), id)
    end
  end
  -- One that was set back before anybody looked leaves leases that last longer than any.
  for _, id in ipairs(redis.call('ZRANGE', PREFIX .. 'leases', '(' .. int(now() + LIMITS.lease_ms), '+inf', 'BYSCORE')) do
    redis.call('ZADD', PREFIX .. 'leases', 'LT', int(now() + lease_of(id)), id)
  end
end

local function seconds(ms)
  return int(math.floor(ms / 1000))
end

local function record(id)
  return PREFIX .. 'job:' .. id
end

local function get(id, field)
  return redis.call('HGET', record(id), field)
end

local function queue_of(model, priority)
  return priority == 'bulk' and model .. ':bulk' or model
end

-- What a job is from its beginning to its end, known once a script has read or made it: owner, model, priority, queue, cost.
local known_jobs = {}
local function know(id, owner, model, priority, cost)
  known_jobs[id] =
    { owner = owner, model = model, priority = priority, queue = queue_of(model, priority), cost = tonumber(cost) }
end

local function job(id)
  if not known_jobs[id] then
    know(id, unpack(redis.call('HMGET', record(id), 'owner', 'model', 'priority', 'cost')))
  end
  return known_jobs[id]
end

local function emit(id, kind, status, attempt, progress)
  redis.call('XADD', PREFIX .. 'events:' .. id, 'MAXLEN', '~', EVENTS_KEPT, '*',
    'type', kind, 'status', status, 'attempt', attempt, 'progress', progress)
end

-- Why the attempt with this token may not go on, or nil; and its number.
local function refusal(id, token)
  local fields = redis.call('HMGET', record(id), 'status', 'token', 'cancel_requested', 'attempt')
  if fields[1] ~= 'in_progress' or fields[2] ~= token then
    return 'lost'
  end
  if fields[3] == '1' then
    return 'cancelled'
  end
  if not tonumber(fields[4]) then  -- a damaged record, which is set aside once the lease runs out
    return 'lost'
  end
  return nil, fields[4]
end

-- What is in a JSON object; nothing if it is none.
local function parsed(text)
  local read, value = pcall(cjson.decode, text)
  return read and type(value) == 'table' and value or {}
end

local function steps_of(params)
  return cjson.decode(params).steps
end

-- Begin the job's next attempt, and set the fields that are given beside its own. Its number alone does not fence: a
-- Redis that lost its latest writes counts it again. So the token has a nonce of the worker that claimed it.
local function begin_attempt(id, nonce, last, params, ...)
  local attempt = int(tonumber(last) + 1)
  local progress = cjson.encode({ phase = 'loading', step = 0, steps = steps_of(params) })
  redis.call('HSET', record(id), 'attempt', attempt, 'token', attempt .. '-' .. nonce, 'progress', progress,
    'lease_ms', int(LIMITS.lease_ms) .. ' ' .. attempt, 'gpus', A.gpus and int(A.gpus) .. ' ' .. attempt or '', ...)
  emit(id, 'in_progress', 'in_progress', attempt, progress)
end

-- What has another type than ours is damage that nothing can be read of: it goes, so that it holds up nothing else, and
-- Redis' own log names it. True if it was there.
local function keep_only(kind, key)
  local found = redis.call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then
    redis.call('DEL', key)
    redis.log(redis.LOG_WARNING, key .. ' was no ' .. kind .. ' but a ' .. found .. ', and was removed')
    return true
  end
end

-- Count in a field of a hash, which holds up nothing: one that is no counter stays as it is, and its readers tell of it.
-- The sum; nil if there is none.
local function count(key, field, amount)
  local sum = redis.pcall('HINCRBY', key, field, int(amount))
  if type(sum) == 'number' then
    return sum
  elseif string.find(sum.err, 'WRONGTYPE') then
    keep_only('hash', key)
    return count(key, field, amount)
  elseif not (string.find(sum.err, 'not an integer') or string.find(sum.err, 'overflow')) then
    error(sum)
  end
end

local USAGE_SECONDS = 401 * 86400
local function note_usage(id, what, amount)
  local key = PREFIX .. 'usage:' .. int(math.floor(now() / 86400000))
  local sum = count(key, job(id).owner .. '|' .. job(id).model .. '|' .. what, amount)
  if sum and int(sum) == int(amount) then  -- the first of its kind on this day, and maybe the day's first
    redis.call('EXPIRE', key, USAGE_SECONDS)
  end
end

-- How many GPUs the workers of a model have, as of the entry that is offered.
local function usual_gpus(model)
  local spec = redis.call('HGET', PREFIX .. 'served', model)
  return spec and tonumber(parsed(spec).gpus) or 1
end

-- A worker no longer has the lease of this job, if it had it.
local function free(worker, id)
  if worker and redis.call('HGET', PREFIX .. 'leases_by_worker', worker) == id then
    redis.call('HDEL', PREFIX .. 'leases_by_worker', worker)
  end
end

-- How long (ms) the attempt ran, if it is known.
local function leave_running(id)
  local running = PREFIX .. 'running:' .. job(id).model
  local worker = get(id, 'worker')
  local began = redis.call('ZSCORE', running, id)
  local ran = began and math.max(0, steady() - began)
  if ran then
    redis.call('HINCRBY', record(id), 'ran_ms', int(ran))
    note_usage(id, 'gpu_ms', ran * (told(id, 'gpus') or usual_gpus(job(id).model)))
  end
  redis.call('ZREM', running, id)
  redis.call('ZREM', PREFIX .. 'leases', id)
  free(worker, id)
  return ran
end

-- Start-time fair queueing: an owner's jobs follow each other at their costs, from the present on; so one with a
-- thousand jobs does not keep another, who has one, from being next.
local function next_place(id, queue)
  local owners, owner = PREFIX .. 'owners:' .. queue, job(id).owner
  local present = tonumber(redis.call('HGET', PREFIX .. 'virtual', queue) or 0)
  local place = math.max(present, tonumber(redis.call('ZSCORE', owners, owner) or 0))
  redis.call('ZADD', owners, real(place + job(id).cost), owner)
  return place
end

-- place: where it waits, nil to wait behind its owner's others. The fields that are given are set, too.
local function join_queue(id, place, attempt, steps, ...)
  local priority, queue, owner = job(id).priority, job(id).queue, job(id).owner
  local shares = PREFIX .. 'share:' .. job(id).model
  if redis.call('EXISTS', PREFIX .. 'waiting:' .. queue) == 0 then
    -- A priority that has had no jobs for a while has not saved up its share: it goes on from the present.
    local had = redis.call('HMGET', shares, priority, 'present')
    redis.call('HSET', shares, priority, real(math.max(tonumber(had[1] or 0), tonumber(had[2] or 0))))
  end
  place = place or next_place(id, queue)
  local progress = cjson.encode({ phase = 'queued', step = 0, steps = steps })
  redis.call('HSET', record(id), 'status', 'queued', 'worker', '', 'progress', progress, ...)
  redis.call('SADD', PREFIX .. 'queues', queue)
  redis.call('ZADD', PREFIX .. 'waiting:' .. queue, real(place), id)
  redis.call('ZADD', PREFIX .. 'waiting_by_owner:' .. queue .. ':' .. owner, real(place), id)
  redis.call('ZADD', PREFIX .. 'arrivals:' .. queue, int(steady()), id)
  redis.call('HINCRBYFLOAT', PREFIX .. 'backlog', queue, job(id).cost)
  redis.call('HINCRBY', PREFIX .. 'owned:' .. queue, owner, 1)
  emit(id, 'queued', 'queued', attempt, progress)
end

local function return_to_queue(id, place)
  local fields = redis.call('HMGET', record(id), 'attempt', 'params')
  join_queue(id, place, fields[1], steps_of(fields[2]))
end

-- True if it was in the queue.
local function leave_queue(id)
  local queue, owner = job(id).queue, job(id).owner
  redis.call('ZREM', PREFIX .. 'waiting_by_owner:' .. queue .. ':' .. owner, id)
  redis.call('ZREM', PREFIX .. 'arrivals:' .. queue, id)
  redis.call('ZREM', PREFIX .. 'unoffered:' .. queue, id)
  if redis.call('ZREM', PREFIX .. 'waiting:' .. queue, id) == 0 then
    return false
  end
  if redis.call('EXISTS', PREFIX .. 'waiting:' .. queue) == 1 then
    redis.call('HINCRBYFLOAT', PREFIX .. 'backlog', queue, -job(id).cost)
  else
    redis.call('HDEL', PREFIX .. 'backlog', queue)
  end
  if redis.call('HINCRBY', PREFIX .. 'owned:' .. queue, owner, -1) <= 0 then
    redis.call('HDEL', PREFIX .. 'owned:' .. queue, owner)
  end
  return true
end

-- A message in the broker's list is a bell for whichever job is next. How many a queue has too few: of those that were
-- rung, some may be lost, some have led to the other queue's jobs, and some are those of jobs that were cancelled.
local function lacking_bells(queue)
  local rung = redis.call('LLEN', 'generate.' .. queue)  -- queue_name of queue.py
  return math.max(0, redis.call('ZCARD', PREFIX .. 'waiting:' .. queue) - rung)
end

-- A job that leaves the queue unrun costs its owner nothing: the owner's later jobs move up, as many as may follow at a
-- bounded cost; those beyond keep their distance.
local function move_up_behind(id, place)
  local owner, queue, cost = job(id).owner, job(id).queue, job(id).cost
  local mine = PREFIX .. 'waiting_by_owner:' .. queue .. ':' .. owner
  local later = redis.call('ZRANGE', mine, '(' .. place, '+inf', 'BYSCORE', 'LIMIT', 0, MOVED_UP)
  for _, other in ipairs(later) do
    redis.call('ZINCRBY', mine, real(-cost), other)
    redis.call('ZINCRBY', PREFIX .. 'waiting:' .. queue, real(-cost), other)
  end
  if #later < MOVED_UP and redis.call('ZSCORE', PREFIX .. 'owners:' .. queue, owner) then
    redis.call('ZINCRBY', PREFIX .. 'owners:' .. queue, real(-cost), owner)
  end
end

local function schedule_webhook(id, lane, due)
  keep_only('zset', PREFIX .. 'webhook_lane:' .. lane)
  redis.call('ZADD', PREFIX .. 'webhooks', int(due), id)
  redis.call('ZADD', PREFIX .. 'webhook_lane:' .. lane, int(due), id)
  redis.call('ZADD', PREFIX .. 'webhook_lanes', 'LT', int(due), lane)
end

-- An ended job owes its event to its webhook_url, unless it was deleted: nothing more is to be heard of it then.
-- The record is copied, because it may expire before the event is delivered.
local function owe_webhook(id, status, url)
  local lane = (url:match('^%a+://([^/?#]+)') or url) .. '#' .. tonumber(id:sub(-1), 16) % 4
  redis.call('HSET', PREFIX .. 'webhook:' .. id, 'type', 'video.' .. status, 'owner', job(id).owner, 'url', url, 'lane', lane,
    'attempts', '0', 'record', cjson.encode(redis.call('HGETALL', record(id))))
  schedule_webhook(id, lane, now())
end

local function forget_webhook(id)
  keep_only('hash', PREFIX .. 'webhook:' .. id)
  local lane = redis.call('HGET', PREFIX .. 'webhook:' .. id, 'lane')
  if lane then
    keep_only('zset', PREFIX .. 'webhook_lane:' .. lane)
    redis.call('ZREM', PREFIX .. 'webhook_lane:' .. lane, id)
  end
  redis.call('ZREM', PREFIX .. 'webhooks', id)
  redis.call('ZREM', PREFIX .. 'webhooks_dead', id)
  redis.call('DEL', PREFIX .. 'webhook:' .. id)
end

-- The answer to a request whose idempotency key ('{owner}:{key}') is known: its jobs as they stand, without those that
-- were deleted, or that the key was used with another request. Nil if it is not known, or none of its jobs is left.
local function repeated(idempotency, digest)
  local known = redis.call('HMGET', PREFIX .. 'idempotency:' .. idempotency, 'id', 'digest', 'batch')
  if not known[1] then
    return nil
  end
  if known[2] ~= digest then
    return { 'conflict', known[1] }
  end
  local answer = { 'known' }
  for id in string.gmatch(known[3], '[^,]+') do
    if get(id, 'status') and get(id, 'discarded') ~= '1' then
      answer[#answer + 1] = { id, redis.call('HGETALL', record(id)) }
    end
  end
  return #answer > 1 and answer or nil
end

-- What every end has in common. failure: the error (JSON) of a job that failed. The fields that are given are set, too.
-- How long (ms) the attempt ran that ends, if there is one.
local function finish(id, status, failure, ...)
  local fields = redis.call('HMGET', record(id), 'status', 'attempt', 'progress', 'discarded', 'webhook_url')
  local attempt, discarded, url = fields[2], fields[4] == '1', fields[5]
  local ran
  if fields[1] == 'in_progress' then
    ran = leave_running(id)
  else
    local place = redis.call('ZSCORE', PREFIX .. 'waiting:' .. job(id).queue, id)
    if leave_queue(id) then
      move_up_behind(id, place)
    end
  end
  local code = failure and cjson.decode(failure).code or ''
  count(PREFIX .. 'ended', job(id).model .. '|' .. status .. '|' .. code, 1)
  note_usage(id, status, 1)
  redis.call('SREM', PREFIX .. 'unfinished:' .. job(id).owner, id)
  redis.call('DEL', PREFIX .. 'preview:' .. id)
  if failure then
    redis.call('HSET', record(id), 'error', failure)
  end
  redis.call('HSET', record(id), 'status', status, 'completed_at', seconds(now()),
    'expires_at', seconds(now() + LIMITS.ttl_ms), ...)
  if discarded then
    redis.call('ZADD', PREFIX .. 'purge', 0, id)
  else
    redis.call('ZADD', PREFIX .. 'expiry', int(steady() + LIMITS.ttl_ms), id)
    if attempt ~= '0' then
      redis.call('ZADD', PREFIX .. 'leavings', 0, id)
    end
    if url then
      owe_webhook(id, status, url)
    end
  end
  emit(id, status, status, attempt, fields[3])
  return ran
end

-- Hide a job for good. Its files and record go once no worker holds it.
local function discard(id)
  local status = get(id, 'status')
  redis.call('HSET', record(id), 'discarded', '1')
  redis.call('ZREM', PREFIX .. 'jobs:' .. job(id).owner, id)
  redis.call('ZREM', PREFIX .. 'expiry', id)
  redis.call('ZREM', PREFIX .. 'leavings', id)
  local key = get(id, 'idempotency')
  if key and redis.call('HGET', PREFIX .. 'idempotency:' .. key, 'id') == id then  -- else it stands for other jobs by now
    redis.call('DEL', PREFIX .. 'idempotency:' .. key)
  end
  if status == 'queued' then
    redis.call('HSET', record(id), 'cancel_requested', '1')
    finish(id, 'cancelled')
  elseif status == 'in_progress' then
    redis.call('HSET', record(id), 'cancel_requested', '1')
  else
    redis.call('ZADD', PREFIX .. 'purge', 0, id)
  end
end

-- What every script reads of a job's record, by name, whether it is all there, and the parameters. Also of a later version's.
local function read(id)
  local names = { 'owner', 'model', 'priority', 'cost', 'attempt', 'lost_attempts', 'schema_version', 'progress',
    'params', 'started_at' }
  local fields = {}
  for i, value in ipairs(redis.call('HMGET', record(id), unpack(names))) do
    fields[names[i]] = value
  end
  local numbers = tonumber(fields.cost) and tonumber(fields.attempt) and tonumber(fields.lost_attempts)
    and tonumber(fields.schema_version)
  local texts = fields.owner and fields.model and fields.priority and fields.progress
  local asked = parsed(fields.params)
  return fields, numbers and texts and tonumber(asked.steps) and true or false, asked
end

-- The summed cost of a queue's jobs, anew: what one that cannot be read has added to it, nobody can say.
local function count_backlog(queue)
  local waiting, sum = redis.call('ZRANGE', PREFIX .. 'waiting:' .. queue, 0, -1), 0
  for _, id in ipairs(waiting) do
    sum = sum + (tonumber(get(id, 'cost')) or 0)
  end
  if #waiting > 0 then
    redis.call('HSET', PREFIX .. 'backlog', queue, real(sum))
  else
    redis.call('HDEL', PREFIX .. 'backlog', queue)
  end
end

local ENDED = { completed = true, failed = true, cancelled = true }
local DAMAGED = cjson.encode({ code = 'record_damaged', message = "The job's record is damaged, so no worker can run it." })

-- A job whose record is gone or cannot be read: nobody can run it or say how it ended, and all who met it would stop
-- there. It goes out of whatever leads to it, and has failed for its owner; without one, what is left of it stays for a while.
local function set_aside(id)
  redis.call('ZREM', PREFIX .. 'leases', id)
  for _, queue in ipairs(redis.call('SMEMBERS', PREFIX .. 'queues')) do
    redis.call('ZREM', PREFIX .. 'running:' .. queue, id)  -- queues are named as models are, and ':bulk' is no model
    redis.call('ZREM', PREFIX .. 'arrivals:' .. queue, id)
    if redis.call('ZREM', PREFIX .. 'waiting:' .. queue, id) == 1 then
      count_backlog(queue)
      local owned = redis.call('HGETALL', PREFIX .. 'owned:' .. queue)
      for i = 1, #owned, 2 do
        local owner = owned[i]
        if redis.call('ZREM', PREFIX .. 'waiting_by_owner:' .. queue .. ':' .. owner, id) == 1
            and redis.call('HINCRBY', PREFIX .. 'owned:' .. queue, owner, -1) <= 0 then
          redis.call('HDEL', PREFIX .. 'owned:' .. queue, owner)
        end
      end
    end
  end
  free(get(id, 'worker'), id)
  local fields = read(id)
  if not fields.owner then
    redis.call('ZREM', PREFIX .. 'expiry', id)
    redis.call('ZREM', PREFIX .. 'leavings', id)
    for _, kind in ipairs({ 'job:', 'events:', 'preview:' }) do
      redis.call('PEXPIRE', PREFIX .. kind .. id, int(LIMITS.ttl_ms))
    end
  elseif not ENDED[get(id, 'status')] then
    know(id, fields.owner, fields.model or '', fields.priority or 'interactive', tonumber(fields.cost) or 0)
    redis.call('HSET', record(id), 'attempt', tonumber(fields.attempt) and fields.attempt or '0', 'progress', '{}')
    finish(id, 'failed', DAMAGED)
  end
  redis.call('LPUSH', PREFIX .. 'set_aside', id)
end

-- Before its owner ends a job: one that cannot be read ends in its own way.
local function set_aside_if_damaged(id)
  local status, _, whole = get(id, 'status'), read(id)
  if not ENDED[status] and not (whole and (status == 'queued' or status == 'in_progress')) then
    set_aside(id)
  end
end

-- Do this for each job; those that cannot be read keep none of the others from it.
local function for_each(ids, act)
  for _, id in ipairs(ids) do
    local _, whole = read(id)
    if whole then
      act(id)
    else
      set_aside(id)
    end
  end
end

-- The running job that a worker has a lease of, if it has one.
local function held_by(worker)
  local id = redis.call('HGET', PREFIX .. 'leases_by_worker', worker)
  if id and get(id, 'status') == 'in_progress' then
    local _, whole = read(id)
    if whole then
      return id
    end
    set_aside(id)
  end
end

-- A running job whose worker is gone: cancelled if that was asked for, failed with this error (JSON) once too many
-- attempts were lost, else queued. True if it is queued.
local function lose_worker(id, failure)
  local lost = redis.call('HINCRBY', record(id), 'lost_attempts', 1)
  count(PREFIX .. 'leases_lost', job(id).model, 1)
  if get(id, 'cancel_requested') == '1' then
    finish(id, 'cancelled')
  elseif lost >= LIMITS.max_attempts then
    finish(id, 'failed', failure)
  else
    leave_running(id)
    return_to_queue(id)
    return true
  end
end
