"""Tasks of the worker: one module each, whose ``run`` makes a job's files."""

from adaspa_api.words import Task

from adaspa_worker.context import Context, Made
from adaspa_worker.tasks import image_to_video, reference_audio_to_video, text_to_video, video_continuation

TASKS = {
    Task.text_to_video: text_to_video.run,
    Task.image_to_video: image_to_video.run,
    Task.first_last_frame: image_to_video.run,
    Task.video_continuation: video_continuation.run,
    Task.reference_to_video: image_to_video.run,
    Task.reference_audio_to_video: reference_audio_to_video.run,
}


def run(context: Context) -> Made:
    """Do the task that a job's images or its video make it."""
    return TASKS[Task.of(context.inputs)](context)
