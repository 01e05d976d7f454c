-- Keep the latest preview of a running job, and tell those that follow it.
-- id, token, progress (JSON), step; CONTENT: WebP
local id = A.id
local refused, attempt = refusal(id, A.token)
if refused then
  return refused
end
redis.call('HSET', PREFIX .. 'preview:' .. id, 'step', int(A.step), 'image', CONTENT)
redis.call('HSET', record(id), 'progress', A.progress)
emit(id, 'preview', 'in_progress', attempt, A.progress)
return 'ok'
