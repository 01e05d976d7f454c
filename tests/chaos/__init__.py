"""Chaos: many short jobs through the whole service while its parts are killed, stopped, cut off and doubled.

    PYTHONPATH=tests python -m chaos --jobs 1000 --out docs/chaos.json

The service is the real one: two gateways, three Celery workers, Valkey with an append-only file, an S3 server. Only
the model is a stand-in, because what is proved here is what happens to jobs. An audit at the end says what was lost.
"""
