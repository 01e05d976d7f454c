"""The contact sheet of an evaluation."""

from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

CAPTIONS, FRAMES = 8, 8
MARGIN, TEXT_HEIGHT, LABEL_WIDTH, GAP = 8, 18, 84, 2


def save_sheet(path: Path, captions: list[str], videos: dict[str, Tensor]) -> None:
    """Write a PNG: under each of the first captions a row of frames for each mode.

    Args:
        path: the file to write.
        captions: one per video.
        videos: by the mode's name, uint8 [len(captions), frames, height, width, 3].
    """
    some = next(iter(videos.values()))
    frames, height, width = some.shape[1:4]
    count = min(CAPTIONS, len(captions))
    block = TEXT_HEIGHT + len(videos) * (height + GAP) + MARGIN
    size = (2 * MARGIN + LABEL_WIDTH + FRAMES * (width + GAP), MARGIN + count * block)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for i in range(count):
        top = MARGIN + i * block
        pen.text((MARGIN, top), captions[i], fill="black")
        for row, (mode, clips) in enumerate(videos.items()):
            y = top + TEXT_HEIGHT + row * (height + GAP)
            pen.text((MARGIN, y + height // 2), mode, fill="black")
            for column, frame in enumerate(torch.linspace(0, frames - 1, FRAMES).round().long().tolist()):
                x = MARGIN + LABEL_WIDTH + column * (width + GAP)
                sheet.paste(Image.fromarray(clips[i, frame].numpy()), (x, y))
    sheet.save(path)
