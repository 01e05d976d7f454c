#!lua flags=allow-oom
-- in_progress -> completed, by the attempt that holds the lease, or held it last.
-- ARGV: 2 id, 3 token, 4 artifacts, 5 report, 6 timings (JSON)
local id, token = ARGV[2], ARGV[3]
if already(id, token, 'completed') then
  return 'ok'
end
local refused = refusal(id, token, true)
if refused then
  return refused
end
redis.call('HSET', record(id), 'artifacts', ARGV[4], 'report', ARGV[5], 'timings', ARGV[6])
local model = get(id, 'model')
local began = redis.call('ZSCORE', PREFIX .. 'running:' .. model, id)
if began and not cjson.decode(get(id, 'progress')).resumed_from_step then  -- else this attempt did not do all of the work
  redis.call('LPUSH', PREFIX .. 'paces:' .. model, string.format('%.6g', (NOW - began) / 1000 / cost_of(id)))
  redis.call('LTRIM', PREFIX .. 'paces:' .. model, 0, 49)
end
finish(id, 'completed')
return 'ok'
