"""``python -m adaspa_service``: the ``adaspa`` command where its script is not on the path."""

from adaspa_service.cli import main

main()
