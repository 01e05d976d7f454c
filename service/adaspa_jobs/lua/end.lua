#!lua flags=allow-oom
-- End an attempt: in_progress -> completed, failed, cancelled; or back to queued, released by a worker that stops, or
-- after a worker_error, which was no fault of the job. The answer may be lost, so the same end may be told again.
-- id, token, outcome; for completed artifacts, timings, warnings, and ?preset, ?timed: what the job took, to be kept
-- with its preset's; for failed and worker_error error: JSON. ARGV[3], for completed: the report, JSON
local id, outcome = A.id, A.outcome
local STATUS = { released = 'queued', worker_error = 'queued' }

local fields = redis.call('HMGET', record(id), 'status', 'token', 'cancel_requested', 'owner', 'model', 'priority', 'cost',
  'progress')
local status, cancelled = fields[1], fields[3] == '1'
if fields[2] ~= A.token then
  return 'lost'
end
if status == (STATUS[outcome] or outcome) or (outcome == 'worker_error' and status == 'failed') then
  return 'ok'
end
-- What is completed counts even if the lease ran out: no other attempt has begun.
if status ~= 'in_progress' and not (outcome == 'completed' and status == 'queued') then
  return 'lost'
end
if cancelled ~= (outcome == 'cancelled') then
  return cancelled and 'cancelled' or 'lost'
end

local _, whole = read(id)
if not whole then
  set_aside(id)
  return 'lost'
end
know(id, fields[4], fields[5], fields[6], fields[7])

local function keep_latest(key, value)
  redis.call('LPUSH', key, value)
  redis.call('LTRIM', key, 0, 49)
end

-- ran: how long (ms) the attempt did.
local function note_times(ran, progress)
  local model, cost = job(id).model, job(id).cost
  if ran and not cjson.decode(progress).resumed_from_step then  -- else this attempt did not do all the work
    keep_latest(PREFIX .. 'paces:' .. model, string.format('%.6g', ran / 1000 / cost))
    if A.timed then
      keep_latest(PREFIX .. 'times:' .. model .. ':' .. A.preset, A.timed)
    end
  end
end

if outcome == 'worker_error' and redis.call('HINCRBY', record(id), 'worker_errors', 1) >= LIMITS.max_attempts then
  outcome = 'failed'
end
if STATUS[outcome] then
  leave_running(id)
  return_to_queue(id, get(id, 'place'))
elseif outcome == 'completed' then
  local ran = finish(id, outcome, nil,
    'artifacts', A.artifacts, 'report', ARGV[3], 'timings', A.timings, 'warnings', A.warnings)
  note_times(ran, fields[8])
else
  finish(id, outcome, outcome == 'failed' and A.error)
end
return 'ok'
