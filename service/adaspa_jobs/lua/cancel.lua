#!lua flags=allow-oom
-- queued -> cancelled at once; in_progress -> the worker is asked to stop; an ended job stays as it is.
-- id
local id = A.id
if redis.call('EXISTS', record(id)) == 0 then
  return false
end
set_aside_if_damaged(id)
local status = get(id, 'status')
if status == 'queued' or status == 'in_progress' then
  redis.call('HSET', record(id), 'cancel_requested', '1')
end
if status == 'queued' then
  finish(id, 'cancelled')
end
return get(id, 'status')
