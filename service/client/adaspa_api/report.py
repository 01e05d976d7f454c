"""A job's outcome: its error, how much of its prompts was used, and what AdaSpa did."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel

from adaspa_api.words import ErrorCode, Open


class JobError(BaseModel):
    """Reason why a job failed."""

    code: Open[ErrorCode]
    message: str


class TokenCount(BaseModel):
    """Count of the tokens of a text that the text encoder used, including its end marker."""

    used: int
    cut: int
    """Number of tokens cut off at the end of the text; they had no effect."""
    limit: int
    """Maximum number of tokens that the text encoder takes."""


Share = Annotated[float, AfterValidator(lambda value: round(value, 4))]


class LayerReport(BaseModel):
    """Density and recall of one layer by head, as means over its sparse steps."""

    layer: int
    density: list[Share]
    recall: list[Share]


class KernelReport(BaseModel):
    """An attention operation and the backend that ran it."""

    op: str
    backend: str
    """Backend that ran the calls: `hopper`, `triton`, `pytorch` or `reference`; `diffusers: NAME` for one of
    diffusers."""
    dtype: str
    """Data type of queries, keys and values."""
    passed_over: str = ""
    """Faster kernels that could not run the calls, and why; usually empty."""
    calls: int


class KindReport(BaseModel):
    """Attention calls of one kind: dense, search or sparse."""

    calls: int
    work: Share
    """Share of `attention_work` from these calls."""
    kernels: list[KernelReport] = []
    patterns: int = 0
    """Number of block lists that the calls read: one for each search, layer and guidance branch."""
    density: Share | None = None
    """Share of the blocks in those lists, averaged over the calls; null if the calls read no list."""
    reuse: float | None = None
    """Calls per block list; null if the calls read no list."""


class MemoryReport(BaseModel):
    """GPU memory of one job, in bytes."""

    predicted_bytes: int | None = None
    """Peak that was predicted from the model's configuration; null if that is not modelled for the model."""
    peak_bytes: int | None = None
    """Measured peak, including weights; null on a CPU."""
    tiled: bool = False
    """True if the video was decoded in tiles: always (`vae_tiling`), or because the whole would not have fit."""


class AttentionReport(BaseModel):
    """Report of what AdaSpa did in one job."""

    attention_work: Share | None = None
    """Attention computed, as a share of full dense attention. It counts everything: dense steps and layers, searches
    and sparse steps. Null in reports of earlier versions."""
    density: float
    """Mean share of the blocks computed in sparse steps; 1 is dense. Excludes dense steps, dense layers and searches,
    which `attention_work` includes."""
    recall: float | None = None
    """Mean share of the attention mass that those blocks hold."""
    recall_is_estimate: bool = False
    """True if part of the recall comes from searches that scored only some rows (`query_stride`)."""
    unevenness: float | None = None
    """Unevenness of what queries keep of their attention mass: 0 if all of a head's queries keep the same share. Above
    0.03, some lose nearly all of it. Measured at the first search, on a few blocks of queries. Null without a search,
    and in reports of earlier versions."""
    attention_calls: dict[str, int] = {}
    """Number of attention calls by kind: `dense`, `search`, `sparse`, and `skipped` by a step cache."""
    shared_list_calls: int = 0
    """Number of those calls that used the block lists of another guidance branch (`share_lists`). 0 if the branches ran
    in one batch or on GPUs of their own, and in reports of earlier versions."""
    compensated_calls: int = 0
    """Number of sparse calls that got back what their search saw them lose (`compensation`). 0 in reports of earlier
    versions."""
    step_cache: str | None = None
    """Kind of step cache used: `first_block`, `mag`, `sea` or `taylor_seer`."""
    forwards: int = 0
    """Forward passes of the transformer, one per step and guidance branch."""
    reused_forwards: int = 0
    """Forward passes for which the step cache reused blocks from an earlier step. `skipped` in `attention_calls` counts
    the blocks."""
    kernels: dict[str, dict[str, int]] = {}
    """Number of calls of each attention operation by backend: `hopper`, `triton`, `pytorch`, `reference`, or
    `diffusers: NAME` for dense attention by diffusers."""
    kinds: dict[str, KindReport] = {}
    """Details of the `dense`, `search` and `sparse` calls; empty in reports of earlier versions."""
    fell_back: list[str] = []
    """Calls that did not run as scheduled, and why; empty if everything did."""
    parallelism: dict[str, int] = {}
    """Division of the work among GPUs: `guidance` branches side by side, `ulysses` GPUs for the tokens of each. Empty
    if one GPU did all of it."""
    weights: dict[str, dict[str, int]] = {}
    """Bytes of each component's weights (`transformer`, `text_encoder`, `vae`, ...) by the type in which the loaded
    model keeps them: `bfloat16`, `float8_e4m3fn`, `int8`, GGUF's `Q4_K`, ... Empty in reports of earlier versions."""
    quantization: str | None = None
    """Value of the model's `memory.quantization`: `int8` rounds weights only, with `float8` the blocks multiply in
    e4m3. Null without, and in reports of earlier versions."""
    rounding_layers: int = 0
    """Number of layers of the blocks that activate and round what they are given in one kernel, with `float8`. Others
    share it with a layer, or carry an adapter. 0 in reports of earlier versions."""
    memory: MemoryReport | None = None
    """GPU memory of the job. Null in reports of earlier versions."""
    searches: int = 0
    dense_steps: int
    search_steps: int
    sparse_steps: int
    dense_seconds: float
    search_seconds: float
    sparse_seconds: float
    cache_bytes: int = 0
    """Peak size of the job's LSE and index caches, in bytes."""
    layers: list[LayerReport] = []
    """Layers with a sparse pattern; empty in lists of jobs."""
