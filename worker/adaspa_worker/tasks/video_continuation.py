"""Video continuation: a clip of the prompt that begins with the last frames of a video, and goes on from them."""

import av
from adaspa_api.words import Role

from adaspa_worker.context import Context, Made
from adaspa_worker.tasks.clip import make


def run(context: Context) -> Made:
    """Make a job's clip. Raises whatever ends the job or the attempt."""
    with av.open(str(context.inputs[Role.start])) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    return make(context, {Role.start: frames})
