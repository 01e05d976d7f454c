"""Load: how fast a gateway answers while it is followed, while its queue is long, and while its store is full.

    python -m benchmarks.load --out docs/load.json

Requests come at a fixed rate, whether the ones before were answered or not, and each is timed from the moment at which
it was due: a gateway that falls behind is seen to. The generator costs a small part of one core.
"""
