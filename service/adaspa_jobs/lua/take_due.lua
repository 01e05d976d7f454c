#!lua flags=allow-oom
-- Ids of a time-ordered set that are due. Each is due again later: no other gateway takes it at the same time, and it
-- comes up again if the one that took it dies.
-- set, limit (at most), again_in_ms
look()
local set = PREFIX .. A.set
local ids = redis.call('ZRANGE', set, '-inf', int(steady()), 'BYSCORE', 'LIMIT', 0, A.limit)
for _, id in ipairs(ids) do
  redis.call('ZADD', set, int(steady() + A.again_in_ms), id)
end
return ids
