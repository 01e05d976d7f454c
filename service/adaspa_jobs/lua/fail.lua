#!lua flags=allow-oom
-- in_progress -> failed, by the attempt that holds the lease.
-- ARGV: 2 id, 3 token, 4 error (JSON)
local id, token = ARGV[2], ARGV[3]
if already(id, token, 'failed') then
  return 'ok'
end
local refused = refusal(id, token)
if refused then
  return refused
end
redis.call('HSET', record(id), 'error', ARGV[4])
finish(id, 'failed')
return 'ok'
