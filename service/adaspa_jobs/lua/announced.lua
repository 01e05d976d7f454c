-- The catalog entries of the models that a worker has lately said to serve.
for _, model in ipairs(redis.call('ZRANGE', PREFIX .. 'served_until', '-inf', int(steady()), 'BYSCORE')) do
  redis.call('HDEL', PREFIX .. 'served', model)
  redis.call('ZREM', PREFIX .. 'served_until', model)
end
return redis.call('HVALS', PREFIX .. 'served')
