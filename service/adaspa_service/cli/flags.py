"""Flags in the commands' help: they take no value, so none is shown beside them."""

from typing import Any

from typer.core import TyperCommand, TyperGroup


class Command(TyperCommand):
    """A command whose help shows types for options with values alone."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, ``--help`` among them."""
        return without_type(super().get_params(ctx))


class Group(TyperGroup):
    """Group of commands whose help shows no type beside flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the group's own parameters, ``--help`` among them."""
        return without_type(super().get_params(ctx))


def without_type(parameters: list[Any]) -> list[Any]:
    """Take the type from the flags among these parameters; Typer shows it as ``<bool>``."""
    for each in parameters:
        if getattr(each, "is_flag", False):
            each.metavar = ""
    return parameters
