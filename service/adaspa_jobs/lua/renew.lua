#!lua flags=allow-oom
-- Renew a lease and, when there is any, publish progress.
-- id, token, progress? (JSON)
local id = A.id
local refused = refusal(id, A.token)
if refused then
  return refused
end
redis.call('ZADD', PREFIX .. 'leases', int(now() + LIMITS.lease_ms), id)
if A.progress then
  redis.call('HSET', record(id), 'progress', A.progress)
  emit(id, 'progress')
end
return 'ok'
