"""Two video files of one prompt beside each other, and how close they are: PSNR and SSIM of their decoded frames.

``python -m adaspa_worker.side_by_side DENSE OTHER --labels LEFT RIGHT --output OUT.mp4`` prints
``{"psnr_db": ..., "ssim": ...}``. Both figures are of the files as they are, their compression included.
"""

import argparse
import json
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, ImageDraw

from adaspa_worker.comparison import psnr, ssim
from adaspa_worker.encode import VideoWriter, encode

GAP, BAR = 8, 24
"""Pixels between the two, and above them for their names."""
BACKGROUND, INK = (16, 16, 22), (240, 240, 246)


def read(path: Path) -> tuple[np.ndarray, int]:
    """Read a video file: its frames, uint8 RGB [frames, height, width, 3], and its frames per second."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return np.stack(frames), round(stream.average_rate or 1)


def beside(left: np.ndarray, right: np.ndarray, labels: tuple[str, str]) -> np.ndarray:
    """Two frames of one size in one, under their names."""
    height, width = left.shape[:2]
    image = Image.new("RGB", (2 * width + GAP, height + BAR), BACKGROUND)
    draw = ImageDraw.Draw(image)
    for frame, label, x in ((left, labels[0], 0), (right, labels[1], width + GAP)):
        image.paste(Image.fromarray(frame), (x, BAR))
        draw.text((x + 6, 6), label, fill=INK)
    return np.asarray(image)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m adaspa_worker.side_by_side", description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs=2, type=Path)
    parser.add_argument("--labels", nargs=2, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    (left, fps), (right, _) = (read(path) for path in arguments.videos)
    if left.shape != right.shape:
        parser.error(f"the videos differ in shape: {left.shape} and {right.shape}")
    count, height, width = left.shape[:3]
    writer = VideoWriter(arguments.output, width=2 * width + GAP, height=height + BAR, fps=fps, num_frames=count)
    encode((beside(a, b, arguments.labels) for a, b in zip(left, right, strict=True)), writer)
    dense, other = torch.from_numpy(left), torch.from_numpy(right)
    print(json.dumps({"psnr_db": psnr(other, dense), "ssim": ssim(other, dense)}))


if __name__ == "__main__":
    main()
