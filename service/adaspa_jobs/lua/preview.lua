-- Keep the latest preview of a running job, and tell those that follow it.
-- ARGV: 2 id, 3 token, 4 progress (JSON), 5 step, 6 WebP
local id, token = ARGV[2], ARGV[3]
local refused = refusal(id, token)
if refused then
  return refused
end
redis.call('HSET', PREFIX .. 'preview:' .. id, 'step', ARGV[5], 'image', ARGV[6])
redis.call('HSET', record(id), 'progress', ARGV[4])
emit(id, 'preview')
return 'ok'
