"""How the service scales, by simulation from measured times: docs/scaling/README.md is what comes of
it.

Needs the extra ``simulation``. ``python -m adaspa_service.simulation.redis_cost`` measures what a job costs Redis;
``python -m adaspa_service.simulation`` answers from that and from the times of the phases.
"""
