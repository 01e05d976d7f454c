#!lua flags=allow-oom
-- Have a discarded job that has ended share its images no longer. The folder that they lie in, if no job is left that
-- does; then nobody can come to share them, and they can go.
-- id
local id = A.id
local fields = redis.call('HMGET', record(id), 'status', 'discarded', 'inputs')
local folder = fields[3]
if not folder or fields[1] == 'in_progress' or fields[2] ~= '1' then  -- one that waits is ended as it is discarded
  return false
end
local sharing = PREFIX .. 'inputs:' .. folder
redis.call('SREM', sharing, id)
for _, other in ipairs(redis.call('SMEMBERS', sharing)) do
  if redis.call('EXISTS', record(other)) == 1 then  -- else nobody can run it, or make another of it
    return false
  end
end
redis.call('DEL', sharing)
return folder
