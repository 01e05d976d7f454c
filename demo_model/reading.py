"""Reads a generated video back: does it show what its caption says?

The palette is known, so pixels are told apart by colour, outlines by templates drawn with `scenes.signed_distance`, and
motions by the path, the area and the angle of an outline over time. What was asked only says which colours to look for;
shape and motion are classified among all of them and then compared. An actor whose colour is not found counts as wrong
in shape and motion too.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from demo_model.motion import ActorPath, classify_motion
from demo_model.scenes import BACKGROUNDS, COLORS, SHAPES, Scene, signed_distance

FOUND_SHARE = 0.6  # of the frames must show an actor's colour
CORE_PIXELS = 10  # that must have only pixels of their own colour around them
MIN_PIXELS = 40  # an outline of fewer says nothing of its shape
MAX_RESIDUAL = 70.0  # of 255, from the mix of background and ink: beyond it a pixel has a third colour
STRAY_SHARE = 0.15  # parts smaller than this share of the largest one are specks
MIN_IOU = 0.7  # below it an outline is none of the shapes
GRID, EXTENT = 48, 1.9  # of the normalised outline: cells a side, and its half width in units of sqrt(area / pi)
PERIODS = {"square": math.pi / 2, "triangle": 2 * math.pi / 3, "star": 2 * math.pi / 5, "cross": math.pi / 2}
ANGLES, SCALES = 16, (0.92, 0.96, 1.0, 1.04, 1.08)


@dataclass(frozen=True)
class ActorReading:
    """What the video shows for one actor of the caption; None where nothing could be told."""

    color: bool
    shape: str | None
    motion: str | None


@dataclass(frozen=True)
class Reading:
    """What a video shows, in the order of the scene's actors; `background` is a palette name."""

    actors: tuple[ActorReading, ...]
    background: str

    def judge(self, scene: Scene) -> dict[str, list[bool]]:
        """Right or wrong for each `color`, `shape` and `motion` asked, and for the `background` where it was named."""
        pairs = list(zip(self.actors, scene.actors, strict=True))
        return {
            "color": [read.color for read, _ in pairs],
            "shape": [read.shape == asked.shape for read, asked in pairs],
            "motion": [read.motion == asked.motion for read, asked in pairs],
            "background": [self.background == scene.background] if scene.background_named else [],
        }


def read_video(video: Tensor, scene: Scene) -> Reading:
    """Read `video` for the colours that the caption of `scene` asks for.

    Args:
        video: uint8 [frames, height, width, 3].
        scene: what was asked; only the colours of its actors are used.

    Raises:
        ValueError: if `video` has another shape or dtype.
    """
    if video.dtype != torch.uint8 or video.ndim != 4 or video.shape[-1] != 3:
        raise ValueError(f"video must be uint8 [frames, height, width, 3], not {video.dtype} {list(video.shape)}")
    pixels = video.float()
    names = [*COLORS, *BACKGROUNDS]
    palette = torch.tensor([*COLORS.values(), *BACKGROUNDS.values()], dtype=torch.float32)
    # The actors cover well under half of a frame, so the median is a background pixel.
    back = pixels.flatten(1, 2).median(dim=1).values
    nearest = torch.cdist(back.median(dim=0).values[None], palette).argmin()
    cores = count_cores(pixels, palette)
    asked = [actor.color for actor in scene.actors]
    others = max((int(cores[:, i].sum()) for i, name in enumerate(COLORS) if name not in asked), default=0)
    covers = ink_covers(pixels, back, torch.stack([palette[names.index(color)] for color in asked]))
    actors = []
    for i, color in enumerate(asked):
        own = cores[:, names.index(color)]
        found = float((own >= CORE_PIXELS).float().mean()) >= FOUND_SHARE and int(own.sum()) > others
        if not found:
            actors.append(ActorReading(False, None, None))
            continue
        rest = torch.cat([covers[:i], covers[i + 1 :]]).amax(dim=0) if len(asked) > 1 else torch.zeros_like(covers[i])
        actors.append(ActorReading(True, *read_actor(covers[i], rest)))
    return Reading(tuple(actors), names[int(nearest)])


def count_cores(pixels: Tensor, palette: Tensor) -> Tensor:
    """Pixels of each palette colour with only pixels of that colour around them: int64 [frames, colours].

    The blend of two colours at an outline may be nearest to a third one; it is too thin to have a core.
    """
    nearest = torch.cdist(pixels.flatten(0, 2), palette).argmin(dim=-1).view(pixels.shape[:3])
    uniform = -highest_near(-nearest) == highest_near(nearest)
    return torch.stack([((nearest == i) & uniform).sum(dim=(1, 2)) for i in range(len(palette))], dim=1)


def ink_covers(pixels: Tensor, back: Tensor, inks: Tensor) -> Tensor:
    """How much of each pixel an ink covers, specks removed: float32 [inks, frames, height, width] in 0..1.

    Each pixel is taken for a mix of the frame's background `back` [frames, 3] and the ink that explains it best.
    """
    offset = pixels - back[:, None, None, :]
    line = inks[:, None, :] - back[None]
    alpha = torch.einsum("fhwc,kfc->kfhw", offset, line) / (line**2).sum(-1)[..., None, None].clamp(min=1.0)
    alpha = alpha.clamp(0.0, 1.0)
    residual = torch.zeros_like(alpha)
    for channel in range(3):
        residual += (offset[..., channel] - alpha * line[..., channel, None, None]) ** 2
    residual = residual.sqrt()
    best = residual.argmin(dim=0)
    covers = torch.stack([a * ((best == k) & (residual[k] < MAX_RESIDUAL)) for k, a in enumerate(alpha)])
    return torch.stack([cover * without_specks(cover > 0.5) for cover in covers])


def without_specks(mask: Tensor) -> Tensor:
    """`mask` [frames, height, width] without its small parts, and one pixel wider for the blended outline."""
    count = mask[0].numel()
    labels = torch.arange(1, count + 1, dtype=torch.float32).view(1, *mask.shape[1:]) * mask
    while True:  # each part takes on the highest label in it
        spread = labels
        for _ in range(8):
            spread = highest_near(spread) * mask
        if torch.equal(spread, labels):
            break
        labels = spread
    flat = labels.long().flatten(1)
    sizes = torch.zeros(len(mask), count + 1).scatter_add_(1, flat, (flat > 0).float())
    kept = sizes.gather(1, flat) >= STRAY_SHARE * sizes.amax(dim=1, keepdim=True)
    return highest_near((kept & (flat > 0)).view(mask.shape))


def highest_near(values: Tensor) -> Tensor:
    """The highest of the 3 x 3 pixels around each one of `values` [frames, height, width]."""
    # A tenth of the time that max_pool2d takes for it on a CPU.
    for axis in (1, 2):
        length = values.shape[axis] - 1
        before, after = values.narrow(axis, 0, length), values.narrow(axis, 1, length)
        higher, values = torch.maximum(before, after), values.clone()
        values.narrow(axis, 0, length).copy_(higher)
        end = values.narrow(axis, 1, length)
        torch.maximum(end, higher, out=end)
    return values


def read_actor(cover: Tensor, rest: Tensor) -> tuple[str | None, str | None]:
    """Shape and motion of the actor that covers `cover` [frames, height, width], beside the others' `rest`."""
    frames, height, width = cover.shape
    area = cover.sum(dim=(1, 2))
    rows = (torch.arange(height) + 0.5) / height * 2.0 - 1.0
    cols = (torch.arange(width) + 0.5) / width * 2.0 - 1.0
    x = (cover * cols).sum(dim=(1, 2)) / area.clamp(min=1.0)
    y = (cover * rows[:, None]).sum(dim=(1, 2)) / area.clamp(min=1.0)
    inked = cover > 0.5
    edge = inked.clone()
    edge[:, 1:-1, 1:-1] = False
    near = highest_near(highest_near(rest > 0.5))
    visible = area >= MIN_PIXELS
    whole = visible & ~edge.any(dim=2).any(dim=1) & ~(inked & near).any(dim=2).any(dim=1)
    if int(visible.sum()) < 2:
        return None, None
    usable = whole if int(whole.sum()) >= frames // 4 else visible
    scale = (area.clamp(min=1.0) / math.pi).sqrt() * 2.0 / height
    fits, angles = match_templates(cover, x, y, scale)
    # Small outlines are blurred: the frames with the larger ones vote.
    votes = usable & (area >= 0.5 * area[usable].max())
    score = fits[votes].mean(dim=0)
    best = int(score.argmax())
    shape = SHAPES[best] if float(score[best]) >= MIN_IOU else None
    path = ActorPath(x, y, scale, angles[:, best], PERIODS.get(SHAPES[best]), usable)
    return shape, classify_motion(path)


@cache
def templates() -> dict[str, Tensor]:
    """Covers of each shape over angles and scales, of area pi: float32 [angles, scales, GRID, GRID]."""
    axis = (torch.arange(GRID) + 0.5) / GRID * 2.0 * EXTENT - EXTENT
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    cell = 2.0 * EXTENT / GRID
    result = {}
    for shape in SHAPES:
        # The radius at which the shape has the area pi, from its area at radius 1.
        radius = math.sqrt(math.pi / (float((signed_distance(shape, x, y) < 0).sum()) * cell**2))
        period = PERIODS.get(shape)
        steps = [0.0] if period is None else [i * period / ANGLES for i in range(ANGLES)]
        covers = []
        for angle in steps:
            turned = (x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle))
            for scale in SCALES:
                r = radius * scale
                covers.append((0.5 - signed_distance(shape, turned[0] / r, turned[1] / r) * r / cell).clamp(0.0, 1.0))
        result[shape] = torch.stack(covers).view(len(steps), len(SCALES), GRID, GRID)
    return result


def match_templates(cover: Tensor, x: Tensor, y: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The best IoU of each shape in each frame, and the angle (radians) at it: float32 [frames, shapes], twice."""
    axis = (torch.arange(GRID) + 0.5) / GRID * 2.0 * EXTENT - EXTENT
    rows = y[:, None] + axis * scale[:, None]
    cols = x[:, None] + axis * scale[:, None]
    grid = torch.stack([cols[:, None, :].expand(-1, GRID, -1), rows[:, :, None].expand(-1, -1, GRID)], dim=-1)
    outline = F.grid_sample(cover[:, None], grid, align_corners=False)[:, 0].flatten(1)
    fits, angles = [], []
    for shape, drawn in templates().items():
        flat = drawn.flatten(0, 1).flatten(1)
        # min(a, b) + max(a, b) = a + b
        apart = torch.cdist(outline, flat, p=1.0)
        total = outline.sum(1)[:, None] + flat.sum(1)[None]
        iou = ((total - apart) / (total + apart)).view(len(cover), *drawn.shape[:2]).amax(dim=2)
        best = iou.max(dim=1)
        fits.append(best.values)
        angles.append(best.indices * (PERIODS.get(shape, 0.0) / ANGLES))
    return torch.stack(fits, dim=1), torch.stack(angles, dim=1)
