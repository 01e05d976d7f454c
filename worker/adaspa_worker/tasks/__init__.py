"""Tasks of the worker: what makes a job's files."""

from adaspa_api.words import Task

from adaspa_worker.context import Context, Made
from adaspa_worker.tasks import clip

TASKS = dict.fromkeys(Task, clip.run)
"""Functions by task. A task that makes no clip is a module with a ``run`` of its own, and a line here."""


def run(context: Context) -> Made:
    """Do the task that a job's images or its video make it."""
    return TASKS[Task.of(context.inputs)](context)
