-- A worker says which model it serves. ARGV: 2 model, 3 its catalog entry (JSON), 4 for how long that holds (ms)
redis.call('HSET', PREFIX .. 'served', ARGV[2], ARGV[3])
redis.call('ZADD', PREFIX .. 'served_until', int(NOW + ARGV[4]), ARGV[2])
return 'ok'
