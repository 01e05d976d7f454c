#!lua flags=allow-oom
-- Renew a lease and, when there is any, publish progress.
-- ARGV: 2 id, 3 token, 4 progress (JSON) or ''
local id, token, progress = ARGV[2], ARGV[3], ARGV[4]
local refused = refusal(id, token)
if refused then
  return refused
end
redis.call('ZADD', PREFIX .. 'leases', int(NOW + LIMITS.lease_ms), id)
if progress ~= '' then
  redis.call('HSET', record(id), 'progress', progress)
  emit(id, 'progress')
end
return 'ok'
