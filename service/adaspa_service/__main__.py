"""``python -m adaspa_service``: the ``adaspa`` command if its script is not on the path."""

from adaspa_service.cli import main

main()
