"""What came of a job: why it failed, what the model took of its texts, what AdaSpa did."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel

from adaspa_api.words import ErrorCode, Open


class JobError(BaseModel):
    """Why a job failed, for the one who asked for it."""

    code: Open[ErrorCode]
    message: str


class TokenCount(BaseModel):
    """How much of a text the model's text encoder took, in the tokens that it counts, its end marker among them."""

    used: int
    cut: int
    """Tokens at the end of the text that had no room, and so no effect."""
    limit: int
    """The most tokens that it takes."""


Share = Annotated[float, AfterValidator(lambda value: round(value, 4))]


class LayerReport(BaseModel):
    """One layer's patterns, by head: means over its sparse steps."""

    layer: int
    density: list[Share]
    recall: list[Share]


class KernelReport(BaseModel):
    """An attention operation as it ran."""

    op: str
    backend: str
    """What ran it: `hopper`, `triton`, `pytorch`, `reference`; `diffusers: NAME` for a backend of theirs."""
    dtype: str
    """Of queries, keys and values."""
    passed_over: str = ""
    """Which faster kernels of the device could not take it, and why; empty as a rule."""
    calls: int


class KindReport(BaseModel):
    """The calls of the attention of one kind: dense, searches or sparse ones."""

    calls: int
    work: Share
    """Their part of `attention_work`."""
    kernels: list[KernelReport] = []
    patterns: int = 0
    """Lists of blocks that they read: one for each search, layer and guidance branch."""
    density: Share | None = None
    """Share of the blocks in those lists, a mean over the calls; null where they read none."""
    reuse: float | None = None
    """Calls for each list; null where they read none."""


class AttentionReport(BaseModel):
    """What AdaSpa did in one job."""

    attention_work: Share | None = None
    """Attention that ran, as a share of what dense attention would have taken. It counts everything: dense steps and
    layers, the searches' passes, sparse steps. None in reports from before there was this number."""
    density: float
    """Mean share of the blocks computed in sparse steps, over steps and layers; 1 is dense. It leaves out dense steps,
    dense layers and the searches' passes: `attention_work` has them."""
    recall: float | None = None
    """Mean share of the attention mass that those blocks hold."""
    recall_is_estimate: bool = False
    """Whether part of the recall comes from searches that scored only some rows (`query_stride`)."""
    attention_calls: dict[str, int] = {}
    """Calls of the attention that were `dense`, searched or were sparse, and those that a step cache skipped."""
    step_cache: str | None = None
    """Kind of the step cache that the job ran with: `first_block`, `mag`, `sea`, `taylor_seer`."""
    forwards: int = 0
    """Forwards of the transformer, one a step and guidance branch."""
    reused_forwards: int = 0
    """Those of them of which the step cache took blocks from an earlier step, as counted; `attention_calls` has the
    blocks, `skipped`."""
    kernels: dict[str, dict[str, int]] = {}
    """For each attention operation its calls by the backend that ran them: `hopper`, `triton`, `pytorch`, `reference`;
    `diffusers: NAME` for dense attention by a backend of theirs."""
    kinds: dict[str, KindReport] = {}
    """What `dense`, `search` and `sparse` calls did, by which kernels; empty in reports from before there was this."""
    fell_back: list[str] = []
    """What did not run as the schedule has it, and why; empty when all did."""
    searches: int = 0
    dense_steps: int
    search_steps: int
    sparse_steps: int
    dense_seconds: float
    search_seconds: float
    sparse_seconds: float
    cache_bytes: int = 0
    """Peak size of the request's LSE and index caches."""
    layers: list[LayerReport] = []
    """Layers with a pattern; empty in a page of jobs."""
