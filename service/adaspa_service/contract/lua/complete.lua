-- in_progress -> completed, by the attempt that holds the lease.
-- ARGV: 2 id, 3 attempt, 4 artifacts, 5 report, 6 timings (JSON)
local id, attempt = ARGV[2], ARGV[3]
if already(id, attempt, 'completed') then
  return 'ok'
end
local refused = refusal(id, attempt)
if refused then
  return refused
end
redis.call('HSET', record(id), 'artifacts', ARGV[4], 'report', ARGV[5], 'timings', ARGV[6])
local model = get(id, 'model')
local began = redis.call('ZSCORE', PREFIX .. 'running:' .. model, id)
local durations = PREFIX .. 'durations:' .. model
redis.call('LPUSH', durations, string.format('%.3f', (NOW - began) / 1000))
redis.call('LTRIM', durations, 0, 49)
finish(id, 'completed')
return 'ok'
