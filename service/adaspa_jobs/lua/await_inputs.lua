-- Note that images come into a folder of storage, for jobs that are still to be admitted. Until this long from now only.
-- folder, wait_ms
redis.call('ZADD', PREFIX .. 'awaited_inputs', int(steady() + A.wait_ms), A.folder)
return 1
