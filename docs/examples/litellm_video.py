"""Make a video through LiteLLM: ``pip install litellm``, then ``python litellm_video.py OUTPUT``.

Set ADASPA_SERVER to the service's address and ADASPA_API_KEY to your key.
"""

import os
import sys
import time
from pathlib import Path

import litellm

litellm.suppress_debug_info = True
SERVICE = {
    "api_base": f"{os.environ.get('ADASPA_SERVER', 'http://127.0.0.1:8000')}/v1",
    "api_key": os.environ.get("ADASPA_API_KEY", "none"),
    "custom_llm_provider": "openai",
}


def main() -> None:
    """Make a video and write its file."""
    video = litellm.video_generation(
        "a large red circle moves left",
        model="openai/demo",
        size="128x128",
        extra_body={"steps": 4, "seed": 7, "quality": "fast"},
        **SERVICE,
    )
    while (video := litellm.video_status(video.id, **SERVICE)).status not in ("completed", "failed", "cancelled"):
        time.sleep(1)
    if video.status != "completed":
        raise SystemExit(f"{video.id} {video.status}: {video.error}")
    content = litellm.video_content(video.id, **SERVICE)
    Path(sys.argv[1]).write_bytes(content)
    print(video.id, len(content))


if __name__ == "__main__":
    main()
