#!lua flags=allow-oom
-- End an attempt: in_progress -> completed, failed, cancelled; or back to queued, released by a worker that stops, or
-- after a worker_error, which was no fault of the job. The answer may be lost, so the same end may be told again.
-- id, token, outcome; for completed artifacts, report, timings, warnings, and ?preset, ?timed: what the job took, to be kept
-- with its preset's; for failed and worker_error error: JSON
local id, outcome = A.id, A.outcome
local STATUS = { released = 'queued', worker_error = 'queued' }

local fields = redis.call('HMGET', record(id), 'status', 'token', 'cancel_requested')
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

local function note_times()
  local model, cost = job(id).model, job(id).cost
  local began = redis.call('ZSCORE', PREFIX .. 'running:' .. model, id)
  if began and not cjson.decode(get(id, 'progress')).resumed_from_step then  -- else this attempt did not do all the work
    redis.call('LPUSH', PREFIX .. 'paces:' .. model, string.format('%.6g', (steady() - began) / 1000 / cost))
    redis.call('LTRIM', PREFIX .. 'paces:' .. model, 0, 49)
    if A.timed then
      redis.call('LPUSH', PREFIX .. 'times:' .. model .. ':' .. A.preset, A.timed)
      redis.call('LTRIM', PREFIX .. 'times:' .. model .. ':' .. A.preset, 0, 49)
    end
  end
end

if outcome == 'completed' then
  redis.call('HSET', record(id), 'artifacts', A.artifacts, 'report', A.report, 'timings', A.timings,
    'warnings', A.warnings)
  note_times()
elseif outcome == 'worker_error' and redis.call('HINCRBY', record(id), 'worker_errors', 1) >= LIMITS.max_attempts then
  outcome = 'failed'
end
if STATUS[outcome] then
  leave_running(id)
  join_queue(id, get(id, 'place'))
else
  if outcome == 'failed' then
    redis.call('HSET', record(id), 'error', A.error)
  end
  finish(id, outcome)
end
return 'ok'
