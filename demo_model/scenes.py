"""Captioned videos drawn on the fly: coloured shapes that move over a plain background.

A `Scene` is the description; `caption(scene)` says it in words, `draw(scenes)` renders it. Both training and
evaluation start from scenes, so what a caption promises is known exactly.
"""

import math
import random
import zlib
from dataclasses import dataclass

import torch

FRAMES, SIDE = 33, 128  # of a clip; a side in pixels
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLORS = {
    "red": (225, 40, 40),
    "green": (40, 175, 70),
    "blue": (50, 90, 235),
    "yellow": (245, 220, 40),
    "orange": (250, 140, 30),
    "purple": (150, 60, 200),
    "cyan": (50, 210, 225),
    "pink": (250, 130, 190),
}
BACKGROUNDS = {
    "black": (12, 12, 12),
    "white": (244, 244, 244),
    "gray": (128, 128, 128),
    "navy": (18, 24, 78),
    "brown": (92, 58, 36),
}
SIZES = {"small": 0.24, "medium": 0.31, "large": 0.38}  # radius, in half frames
TRANSLATIONS = {
    "moves left": (-1.0, 0.0),
    "moves right": (1.0, 0.0),
    "moves up": (0.0, -1.0),
    "moves down": (0.0, 1.0),
    "moves up and left": (-1.0, -1.0),
    "moves up and right": (1.0, -1.0),
    "moves down and left": (-1.0, 1.0),
    "moves down and right": (1.0, 1.0),
}
MOTIONS = (*TRANSLATIONS, "bounces", "grows", "shrinks", "rotates", "stays still")
GROWTH = (0.7, 1.6)  # times its size, at the ends of the clip, for "grows" and "shrinks"
TURNS = 0.75  # of a full turn, over the clip, for "rotates"
TRAVEL = 0.62  # half frames on either side of the middle, for a translation
TWO_ACTORS = 0.35  # share of scenes with a pair
BACKGROUND_OMITTED = 0.15  # share of captions that leave the background to the model (it is black then)


@dataclass(frozen=True)
class Actor:
    """One shape: what it is, how it moves, and where (coordinates in half frames, x right, y down, 0 the middle)."""

    shape: str
    color: str
    size: str
    motion: str
    size_named: bool
    x: float
    y: float
    angle: float
    phase: float

    def phrase(self) -> str:
        return f"{self.size + ' ' if self.size_named else ''}{self.color} {self.shape} {self.motion}"


@dataclass(frozen=True)
class Scene:
    """One or two actors before a background; the later actor is drawn over the earlier one."""

    actors: tuple[Actor, ...]
    background: str
    background_named: bool


def caption(scene: Scene) -> str:
    """The scene in words, e.g. `a small red circle moves left and a blue star rotates on a white background`."""
    actors = " and ".join(f"a {actor.phrase()}" for actor in scene.actors)
    return f"{actors} on a {scene.background} background" if scene.background_named else actors


def brief_caption(scene: Scene) -> str:
    """What moves how, without what an image of the scene shows, e.g. `moves left and rotates`."""
    return " and ".join(actor.motion for actor in scene.actors)


def is_held_out(scene: Scene) -> bool:
    """True for a tenth of all captions (sizes aside): training never shows them, evaluation asks for them."""
    words = [word for word in caption(scene).split() if word not in SIZES]
    return zlib.crc32(" ".join(words).encode()) % 10 == 0


def sample_scene(rng: random.Random, two_actors: float = TWO_ACTORS) -> Scene:
    """Draw a scene; the two actors of a pair differ in colour, and the one named first is further up and left.

    That the order of the words says who is where spares a small model the guess, and keeps most paths apart.
    """
    named = rng.random() >= BACKGROUND_OMITTED
    background = rng.choice(list(BACKGROUNDS)) if named else "black"
    pair = rng.random() < two_actors
    colors = rng.sample(list(COLORS), 2 if pair else 1)
    if not pair:
        return Scene((_sample_actor(rng, colors[0], (0.0, 0.0), rng.choice(list(SIZES))),), background, named)
    places = [(-0.45, -0.45), (0.45, 0.45)]
    sizes = [rng.choice(["small", "medium"]) for _ in places]
    actors = tuple(_sample_actor(rng, c, p, s) for c, p, s in zip(colors, places, sizes, strict=True))
    return Scene(actors, background, named)


def sample_scenes(
    rng: random.Random, count: int, *, held_out: bool = False, two_actors: float = TWO_ACTORS
) -> list[Scene]:
    """Draw `count` scenes of which all, or none, are held out; `two_actors` is the share of pairs."""
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = sample_scene(rng, two_actors)
        if is_held_out(scene) == held_out:
            scenes.append(scene)
    return scenes


def _sample_actor(rng: random.Random, color: str, place: tuple[float, float], size: str) -> Actor:
    shape = rng.choice(SHAPES)
    # A turned circle or ring looks like one at rest.
    motion = rng.choice([m for m in MOTIONS if m != "rotates" or shape not in ("circle", "ring")])
    jitter = 0.12 if place != (0.0, 0.0) else 0.3
    return Actor(
        shape,
        color,
        size,
        motion,
        size_named=rng.random() < 0.5,
        x=place[0] + rng.uniform(-jitter, jitter),
        y=place[1] + rng.uniform(-jitter, jitter),
        angle=rng.uniform(-0.2, 0.2),
        phase=rng.uniform(0.0, 1.0),
    )


def trajectory(actor: Actor, frames: int) -> torch.Tensor:
    """x, y, radius, angle of the actor in each frame: float32 [frames, 4], half frames and radians."""
    t = torch.linspace(0.0, 1.0, frames)
    radius = torch.full_like(t, SIZES[actor.size])
    x, y, angle = torch.full_like(t, actor.x), torch.full_like(t, actor.y), torch.full_like(t, actor.angle)
    if actor.motion in TRANSLATIONS:
        dx, dy = TRANSLATIONS[actor.motion]
        # A translation crosses the frame in its own direction and keeps the actor's place across it.
        x = torch.lerp(torch.tensor(-TRAVEL), torch.tensor(TRAVEL), t) * dx if dx else x
        y = torch.lerp(torch.tensor(-TRAVEL), torch.tensor(TRAVEL), t) * dy if dy else y
    elif actor.motion == "bounces":
        y = 0.55 - 1.0 * torch.abs(torch.sin(math.pi * (2.0 * t + actor.phase)))
    elif actor.motion == "grows":
        radius = radius * torch.lerp(torch.tensor(GROWTH[0]), torch.tensor(GROWTH[1]), t)
    elif actor.motion == "shrinks":
        radius = radius * torch.lerp(torch.tensor(GROWTH[1]), torch.tensor(GROWTH[0]), t)
    elif actor.motion == "rotates":
        angle = angle + 2.0 * math.pi * TURNS * t
    return torch.stack([x, y, radius, angle], dim=-1)


def signed_distance(shape: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Distance to the outline of a shape of radius 1 at the origin, negative inside (approximate far from it)."""
    if shape == "circle":
        return torch.hypot(x, y) - 1.0
    if shape == "ring":
        return torch.abs(torch.hypot(x, y) - 0.75) - 0.25
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.85
    if shape == "triangle":
        half = math.sqrt(3.0) / 2.0
        return torch.maximum(torch.maximum(half * x - 0.5 * y, -half * x - 0.5 * y), y) - 0.5
    if shape == "cross":
        along = torch.maximum(x.abs() - 1.0, y.abs() - 0.33)
        return torch.minimum(along, torch.maximum(y.abs() - 1.0, x.abs() - 0.33))
    if shape == "star":
        # Five points: fold the plane into one half point and take the distance to its edge.
        sector = 2.0 * math.pi / 5.0
        theta = torch.atan2(x, -y)
        theta = torch.abs(torch.remainder(theta + sector / 2.0, sector) - sector / 2.0)
        r = torch.hypot(x, y)
        px, py = r * torch.sin(theta), r * torch.cos(theta)
        inner = 0.42
        ex, ey = inner * math.sin(sector / 2.0), inner * math.cos(sector / 2.0) - 1.0
        length = math.hypot(ex, ey)
        return (px * -ey + (py - 1.0) * ex) / length
    raise ValueError(f"shape must be one of {', '.join(SHAPES)}, not {shape!r}")


def draw(
    scenes: list[Scene],
    *,
    frames: int = FRAMES,
    height: int = SIDE,
    width: int = SIDE,
    device: str | torch.device = "cpu",
) -> torch.Tensor:
    """Render scenes: float32 [len(scenes), 3, frames, height, width] in -1..1, edges anti-aliased over one pixel."""
    rows = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height * 2.0 - 1.0
    cols = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width * 2.0 - 1.0
    back = torch.tensor([BACKGROUNDS[s.background] for s in scenes], device=device, dtype=torch.float32)
    video = back[:, :, None, None, None].expand(-1, -1, frames, height, width).clone()
    for layer in range(2):
        for shape in SHAPES:
            which = [i for i, s in enumerate(scenes) if layer < len(s.actors) and s.actors[layer].shape == shape]
            if not which:
                continue
            actors = [scenes[i].actors[layer] for i in which]
            path = torch.stack([trajectory(a, frames) for a in actors]).to(device)[..., None, None]
            x, y, radius, angle = path.unbind(2)
            dx, dy = cols[None, None, None, :] - x, rows[None, None, :, None] - y
            cos, sin = torch.cos(angle), torch.sin(angle)
            distance = signed_distance(shape, (dx * cos + dy * sin) / radius, (dy * cos - dx * sin) / radius)
            cover = (0.5 - distance * radius * (height / 2.0)).clamp(0.0, 1.0)[:, None]
            ink = torch.tensor([COLORS[a.color] for a in actors], device=device, dtype=torch.float32)
            index = torch.tensor(which, device=device)
            video[index] = torch.lerp(video[index], ink[:, :, None, None, None].expand_as(video[index]), cover)
    return video / 127.5 - 1.0


def find_actors(video: torch.Tensor) -> torch.Tensor:
    """Which pixels of drawn videos [B, 3, frames, height, width] an actor covers: bool, one channel."""
    # No actor reaches the corner.
    return (video - video[..., :1, :1]).abs().amax(dim=1, keepdim=True) > 0.05
