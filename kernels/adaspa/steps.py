"""Denoising step and guidance branch of a forward: by the scheduler, the pipeline's word, or counting."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from adaspa.sampler import Cue, Place, Sampler

UNNAMED = (
    "no scheduler is followed and the forwards name no guidance branch, so that steps and branches look alike: "
    "adaspa.apply(pipe) follows its scheduler, begin(steps=, branches=) before the call tells them"
)


class Begins(Enum):
    """Beginnings that come with a forward."""

    NOTHING = auto()
    WINDOW = auto()
    """Another schedule in the same call of the pipeline."""
    REQUEST = auto()


@dataclass(frozen=True)
class Moment:
    """Moment of a forward: its place, its guidance branch, and what begins with it."""

    place: Place
    branch: str
    begins: Begins


class StepFollower:
    """Finds the place of each forward of one transformer.

    Args:
        timesteps_rise: whether the model's timesteps rise from step to step; they fall otherwise.
    """

    def __init__(self, timesteps_rise: bool = False) -> None:
        self.timesteps_rise = timesteps_rise
        self._samplers: list[Sampler] = []
        self._sampler: Sampler | None = None
        self.forget()

    def follow(self, pipe: Any) -> None:
        """Follow the scheduler of ``pipe``, beside those of other pipelines that share the transformer."""
        others = [sampler for sampler in self._samplers if sampler.pipe is not None and sampler.pipe is not pipe]
        self._sampler = Sampler(pipe)
        self._samplers = [*others, self._sampler]

    def forget(self) -> None:
        """End the request: the next forward begins another."""
        self.place: Place | None = None
        self._run = object()
        self._value = 0.0
        self._seen: list[str | None] = []
        self.tell(None, None)

    def tell(self, steps: int | None, branches: int | None) -> None:
        """Take the number of steps of the request that comes, and of its forwards in each of them."""
        self._steps, self._branches, self._forwards = steps, branches, 0

    def next(self, cue: Cue) -> Moment:
        """Find the place of the forward that comes now.

        Raises:
            ValueError: when it has no timestep, and the steps have to be counted by it.
        """
        last = self.place
        place = self._by_scheduler(cue)
        windows = place is not None and self._sampler is not None and self._sampler.tells_its_end
        if place is None:
            place = self._counted(cue) if cue.step is None else self._told(cue, cue.step)
        if last is None or place.schedule is not last.schedule or place.evaluation < last.evaluation:
            # A pipeline that tells its end and has not is still in the same call, unless that was given up half-way.
            begins = Begins.WINDOW if windows and _at_its_end(last) else Begins.REQUEST
        else:
            begins = Begins.NOTHING
        if begins is not Begins.NOTHING or (last is not None and place.evaluation != last.evaluation):
            self._seen.clear()
        self.place = place
        return Moment(place, self._branch(cue.branch), begins)

    def _branch(self, name: str | None) -> str:
        """Name the branch, or number it in this evaluation; a name that comes twice has a number too."""
        number = self._seen.count(name)
        self._seen.append(name)
        if name is None:
            return str(number)
        return f"{name}.{number}" if number else name

    def _by_scheduler(self, cue: Cue) -> Place | None:
        set_now = [sampler for sampler in self._samplers if sampler.was_set()]
        if set_now:
            self._sampler = set_now[-1]
        if self._sampler is None:
            return None
        place = self._sampler.place(cue, self.place, self._seen)
        if place is None:  # another loop runs the transformer, until the scheduler is set again
            self._sampler = None
        return place

    def _told(self, cue: Cue, step: int) -> Place:
        """Find the place by the pipeline's own word; what it counts are the evaluations of its sampler."""
        last = self._reached()
        if last is None or step < last or (step == last and cue.branch in self._seen):
            self._run = object()
        return Place(self._run, step, step, cue.steps if cue.steps is not None else self._steps)

    def _counted(self, cue: Cue) -> Place:
        """Find the place by counting: the forwards, if their number in a step was told, or changes of the timestep."""
        last = self._reached()
        if cue.branch is None and self._branches is not None:
            step = self._forwards // self._branches
            self._forwards += 1
            new = last is None
        else:
            step, new = self._by_timestep(cue, last)
        if self._steps is not None and step >= self._steps:  # the next request, of which nothing was told
            self.tell(None, None)
            step, new = 0, True
        if new:
            self._run = object()
        blind = cue.branch is None and self._branches is None
        return Place(self._run, step, step, self._steps, dense_because=UNNAMED if blind else None)

    def _by_timestep(self, cue: Cue, last: int | None) -> tuple[int, bool]:
        """Return the step, and whether it begins a request.

        Another timestep is another step. The same one again in a named branch is one too, because rounding may make
        neighbours equal.
        """
        before, now = self._value, cue.value
        self._value = now
        if last is None:
            return 0, True
        if now == before and (cue.branch is None or cue.branch not in self._seen):
            return last, False
        back = now < before if self.timesteps_rise else now > before
        return (0, True) if back and self._steps is None else (last + 1, False)

    def _reached(self) -> int | None:
        """Return the last step that was told or counted in this request, or None."""
        return self.place.step if self.place is not None and self.place.schedule is self._run else None


def _at_its_end(place: Place | None) -> bool:
    """Tell whether a schedule was run to its end, or to the step before: LTX's long videos leave the last one out."""
    return place is not None and place.steps is not None and place.step >= place.steps - 2
