#!lua flags=allow-oom
-- Ids of a time-ordered set that are due. Each is put off, so that no other gateway takes it at the same time, and so
-- that it comes up again if the one that took it dies.
-- ARGV: 2 set, 3 at most, 4 put off by (ms)
local set = PREFIX .. ARGV[2]
local ids = redis.call('ZRANGE', set, '-inf', int(NOW), 'BYSCORE', 'LIMIT', 0, ARGV[3])
for _, id in ipairs(ids) do
  redis.call('ZADD', set, int(NOW + ARGV[4]), id)
end
return ids
