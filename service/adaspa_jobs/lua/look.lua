-- A job as it stands: its record, and its rank in its queue if it waits (0 is next), else false.
-- id
local fields = redis.call('HGETALL', record(A.id))
local waits = #fields > 0 and get(A.id, 'status') == 'queued' and job(A.id).queue
return { fields, waits and redis.call('ZRANK', PREFIX .. 'waiting:' .. waits, A.id) }
