#!lua flags=allow-oom
-- Remove the record of a discarded job that has ended. Its files have to be gone before.
-- id
local id = A.id
local fields = redis.call('HMGET', record(id), 'status', 'discarded')
if fields[1] == 'in_progress' or (fields[1] and fields[2] ~= '1') then
  return 0
end
redis.call('DEL', record(id))
-- Whoever follows the job is still to read how it ended.
redis.call('EXPIRE', PREFIX .. 'events:' .. id, 10)
redis.call('ZREM', PREFIX .. 'purge', id)
return 1
