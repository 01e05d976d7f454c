#!lua flags=allow-oom
-- Folders of images that no job was admitted for in time: from now on none can be, so that the images can go.
-- limit (at most)
local awaited = PREFIX .. 'awaited_inputs'
for _, folder in ipairs(redis.call('ZRANGE', awaited, '-inf', int(steady()), 'BYSCORE', 'LIMIT', 0, A.limit)) do
  redis.call('ZREM', awaited, folder)
  redis.call('ZADD', PREFIX .. 'lost_inputs', 0, folder)
end
return redis.call('ZRANGE', PREFIX .. 'lost_inputs', 0, A.limit - 1)
