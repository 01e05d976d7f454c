"""A follower of the stand-in: the worker's own, without PyTorch."""

import sys

from adaspa_worker import follower

from chaos import grouped

if __name__ == "__main__":
    sys.modules["adaspa_worker.engines.together"] = grouped
    follower.main()
