#!lua flags=allow-oom
-- A worker says which model it serves.
-- ARGV: 2 model, 3 its catalog entry (JSON), 4 for how long that holds (ms), 5 worker, 6 for how long it counts (ms)
redis.call('HSET', PREFIX .. 'served', ARGV[2], ARGV[3])
redis.call('ZADD', PREFIX .. 'served_until', int(NOW + ARGV[4]), ARGV[2])
redis.call('ZADD', PREFIX .. 'workers:' .. ARGV[2], int(NOW + ARGV[6]), ARGV[5])
redis.call('ZREMRANGEBYSCORE', PREFIX .. 'workers:' .. ARGV[2], '-inf', int(NOW))
return 'ok'
