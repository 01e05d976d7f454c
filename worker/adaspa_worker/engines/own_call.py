"""Parts of a pipeline's own call, up to its texts and up to its VAEs: whatever is done by default is the pipeline's."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import wraps
from typing import Any

from adaspa_api.report import TokenCount
from adaspa_jobs.job import JobParams
from torch import Tensor

from adaspa_worker.engines.encodings import Encodings, identity
from adaspa_worker.pipeline import Encoded


class _Reached(Exception):
    """Signal that the call has come as far as it was to."""


def texts(params: JobParams) -> list[str]:
    """Return the fields of ``Progress`` for a job's texts, in the order in which they are encoded."""
    return ["prompt_tokens", "negative_prompt_tokens"] if params.negative_prompt else ["prompt_tokens"]


def encode(
    pipe: Any, call: Callable[[], object], texts: Sequence[str], encodings: Encodings, image_rows: int = 0
) -> Encoded:
    """Run a pipeline's call up to its timesteps, which every pipeline sets once its texts are encoded.

    Args:
        pipe: the pipeline.
        call: calls it, with all the arguments of the denoising to come.
        texts: the fields of ``Progress`` for those whose tokens are told, in the order in which they are encoded.
        encodings: what was encoded before, which is not encoded again.
        image_rows: of the embeddings, those of an image.
    """
    answers: list[tuple[Tensor | None, ...]] = []
    encode_prompt, set_timesteps = pipe.encode_prompt, pipe.scheduler.set_timesteps

    @wraps(encode_prompt)
    def note(*args: Any, **kwargs: Any) -> tuple[Tensor | None, ...]:
        key = identity(pipe, args, kwargs)
        answers.append(encodings.answer(key, lambda: encode_prompt(*args, **kwargs), lengths))
        return answers[-1]

    @wraps(set_timesteps)  # pipelines look at what it takes
    def stop(*_: Any, **__: Any) -> None:
        raise _Reached

    with (
        lengths_of(pipe.tokenizer) as lengths,
        replaced(pipe, "encode_prompt", note),
        replaced(pipe.scheduler, "set_timesteps", stop),
        suppress(_Reached),
    ):
        call()
    embeddings = answers[0][0]
    assert embeddings is not None
    limit = embeddings.shape[1] - image_rows
    counts = (count(whole, cut_to, limit) for whole, cut_to in lengths)
    return Encoded(tuple(answers), dict(zip(texts, counts, strict=False)))  # an empty negative prompt is encoded too


@contextmanager
def encoded_before(pipe: Any, encoded: Encoded) -> Iterator[None]:
    """Within the block the pipeline's call gets the texts of ``encode``, and runs no encoder."""
    answers = iter(encoded.answers)
    with replaced(pipe, "encode_prompt", lambda *_, **__: next(answers)):
        yield


def denoise(vaes: Sequence[Any], call: Callable[[], object]) -> list[tuple[Tensor, ...]]:
    """Run a pipeline's call up to its last VAE and return what each VAE is to decode.

    That is the latents [1, C, T, h, w] of the video and, with some, a timestep.

    Args:
        vaes: the pipeline's, in the order in which they decode.
        call: calls it.
    """
    found: list[tuple[Tensor, ...]] = []

    def note(*args: Tensor, **_: Any) -> tuple[Tensor]:
        found.append(args)
        if len(found) == len(vaes):
            raise _Reached
        return (args[0].new_zeros(1, 3, 1, 1, 1),)  # a pixel: the call goes on with what it takes for the video

    with ExitStack() as stack:
        for vae in vaes:
            stack.enter_context(replaced(vae, "decode", note))
        stack.enter_context(suppress(_Reached))
        call()
    return found


@contextmanager
def lengths_of(tokenizer: Any) -> Iterator[list[tuple[int, int]]]:
    """Within the block, each text that the tokenizer is to cut: how many tokens it has, and how many are to be left."""
    found: list[tuple[int, int]] = []
    plain = type(tokenizer)

    class Counting(plain):  # type: ignore[misc, valid-type]
        """Subclass of the tokenizer: ``__call__`` is looked up on the class, and chat templates come by it too."""

        def __call__(self, text: Any, **kwargs: Any) -> Any:
            if kwargs.get("truncation"):
                whole = super().__call__(
                    text, **kwargs | {"truncation": False, "padding": False, "max_length": None, "return_tensors": None}
                )
                found.append((len(whole.input_ids[0]), kwargs["max_length"]))
            return super().__call__(text, **kwargs)

    tokenizer.__class__ = Counting
    try:
        yield found
    finally:
        tokenizer.__class__ = plain


def count(whole: int, cut_to: int, limit: int) -> TokenCount:
    """Count the tokens of a text.

    Args:
        whole: what it has, with all that a template puts around it.
        cut_to: how many of these are left.
        limit: how many of those have embeddings: a template's first ones have none.
    """
    before = cut_to - limit
    return TokenCount(used=min(whole, cut_to) - before, cut=max(whole - cut_to, 0), limit=limit)


@contextmanager
def replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    """Within the block the object has this attribute of its own."""
    own = vars(owner)
    before = {name: own[name]} if name in own else {}
    own[name] = value
    try:
        yield
    finally:
        del own[name]
        own.update(before)
