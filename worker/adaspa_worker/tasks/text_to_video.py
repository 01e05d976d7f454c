"""Text to video: a clip of the prompt alone."""

from adaspa_worker.context import Context, Made
from adaspa_worker.tasks.clip import make


def run(context: Context) -> Made:
    """Make a job's clip. Raises whatever ends the job or the attempt."""
    return make(context, {})
