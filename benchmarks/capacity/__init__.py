"""How the service scales, by simulation from measured times: docs/scaling/README.md shows the answers.

Needs the extra ``benchmarks``. ``python -m benchmarks.capacity.redis_cost`` measures what a job costs Redis;
``python -m benchmarks.capacity`` answers from that and from the times of the phases.
"""
