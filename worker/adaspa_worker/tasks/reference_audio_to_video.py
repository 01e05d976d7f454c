"""Reference and audio to video: a clip of the prompt that shows what is in an image, and sounds like a sound."""

from adaspa_api.words import Role

from adaspa_worker.context import Context, Made
from adaspa_worker.sound import Sound
from adaspa_worker.tasks.clip import make
from adaspa_worker.tasks.image_to_video import still


def run(context: Context) -> Made:
    """Make a job's clip. Raises whatever ends the job or the attempt."""
    image, sound = context.inputs[Role.reference], context.inputs[Role.audio]
    return make(context, {Role.reference: still(image), Role.audio: Sound.read(sound)})
