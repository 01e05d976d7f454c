#!lua flags=allow-oom
-- in_progress -> queued, where it was, when the worker was at fault; failed once that has happened too often.
-- ARGV: 2 id, 3 token, 4 error of a job that is given up (JSON)
local id, token = ARGV[2], ARGV[3]
if already(id, token, 'queued') or already(id, token, 'failed') then
  return 'ok'
end
local refused = refusal(id, token)
if refused then
  return refused
end
if redis.call('HINCRBY', record(id), 'put_off', 1) >= LIMITS.max_attempts then
  redis.call('HSET', record(id), 'error', ARGV[4])
  finish(id, 'failed')
else
  leave_running(id)
  join_queue(id, get(id, 'place'))
end
return 'ok'
