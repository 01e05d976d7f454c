#!lua flags=allow-oom
-- Renew a lease and publish the progress that there was since the last time.
-- id, token, told (JSON of each, the latest last)
local id = A.id
local refused, attempt = refusal(id, A.token)
if refused then
  return refused
end
redis.call('ZADD', PREFIX .. 'leases', int(now() + LIMITS.lease_ms), id)
for _, progress in ipairs(A.told) do
  emit(id, 'progress', 'in_progress', attempt, progress)
end
if #A.told > 0 then
  redis.call('HSET', record(id), 'progress', A.told[#A.told])
end
return 'ok'
