"""Guesses at the field that somebody meant who wrote another one: the names of other services, and slips."""

from collections.abc import Collection
from difflib import get_close_matches

ELSEWHERE = {
    "aspect_ratio": "size",
    "audio_file": "reference_audio",
    "audio_url": "reference_audio",
    "callback_url": "webhook_url",
    "cfg": "guidance_scale",
    "cfg_scale": "guidance_scale",
    "dimensions": "size",
    "duration": "seconds",
    "end_image": "last_frame",
    "extend_video": "start_video",
    "first_frame": "input_reference",
    "first_frame_image": "input_reference",
    "format": "output_format",
    "frame_rate": "fps",
    "frames": "num_frames",
    "guidance": "guidance_scale",
    "height": "size",
    "image": "input_reference",
    "image_url": "input_reference",
    "init_image": "input_reference",
    "init_video": "start_video",
    "input_video": "start_video",
    "last_frame_image": "last_frame",
    "last_image": "last_frame",
    "length": "seconds",
    "lora": "loras",
    "num_inference_steps": "steps",
    "num_videos": "n",
    "num_videos_per_prompt": "n",
    "ref_audio": "reference_audio",
    "ref_image": "reference_image",
    "reference_audio_url": "reference_audio",
    "reference_audios": "reference_audio",
    "reference_image_url": "reference_image",
    "reference_images": "reference_image",
    "resolution": "size",
    "subject_image": "reference_image",
    "text": "prompt",
    "video": "start_video",
    "video_length": "num_frames",
    "video_path": "start_video",
    "video_url": "start_video",
    "voice": "reference_audio",
    "width": "size",
}
"""Fields of other services' APIs, by name, and ours for the same."""
LIKE = 0.75
"""Likeness to a field's name above which another name is taken for a slip of it."""


def did_you_mean(name: str, fields: Collection[str]) -> str:
    """Words that name the field that was meant, to be put behind a refusal; empty if none comes to mind."""
    known = name.casefold().replace("-", "_")
    found = [ours] if (ours := ELSEWHERE.get(known)) in fields else get_close_matches(known, fields, 1, LIKE)
    return f" (did you mean {found[0]}?)" if found else ""
