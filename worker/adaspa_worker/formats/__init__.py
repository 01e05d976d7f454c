"""File formats of videos: one module each, named as in ``OutputFormat``."""

from importlib import import_module

from adaspa_api.words import OutputFormat

from adaspa_worker.formats.base import Format


def of(output_format: OutputFormat) -> type[Format]:
    """Return a format's class, the ``FORMAT`` of its module."""
    found: type[Format] = import_module(f"adaspa_worker.formats.{output_format}").FORMAT
    return found
