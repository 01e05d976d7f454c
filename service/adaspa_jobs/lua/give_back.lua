#!lua flags=allow-oom
-- in_progress -> queued, by a worker that stops. It does not count as a lost attempt.
-- ARGV: 2 id, 3 token
local id, token = ARGV[2], ARGV[3]
if already(id, token, 'queued') then
  return 'ok'
end
local refused = refusal(id, token)
if refused then
  return refused
end
leave_running(id)
join_queue(id, get(id, 'place'))
return 'ok'
