"""A process of a group that does what it is told to, without any model: ``python -m playing_follower FD``.

An order is a rank and words: ``answer`` with a text or None, ``piece`` with place and content, ``beat``, ``die``.
"""

import os
import pickle
import sys
from multiprocessing.connection import Connection

leader = Connection(int(sys.argv[1]))
_, (_, _, own, _) = pickle.loads(leader.recv_bytes()), pickle.loads(leader.recv_bytes())
while True:
    try:
        rank, word, *rest = pickle.loads(leader.recv_bytes())
    except (EOFError, OSError):
        break
    if rank not in (own, None):
        continue
    match word:
        case "answer":
            leader.send_bytes(pickle.dumps(rest[0]))
        case "piece":
            from adaspa_worker.group import Piece

            leader.send_bytes(pickle.dumps(Piece(*rest)))
        case "beat":
            leader.send_bytes(b"beat")
        case "die":
            os._exit(3)
