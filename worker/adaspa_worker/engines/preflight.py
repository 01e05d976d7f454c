"""Peak GPU memory of a job before it runs, from the configuration files in the model's folder.

    peak = weights + activations + caches + cuBLAS's workspace    while it is denoised
           weights + decoding + cuBLAS's workspace                while it is decoded, in tiles if it has to be

Of several GPUs each has all weights and its share of activations and caches. Where they share the tokens, each also
holds the queries, keys and values that it gets from the others. The clip counts as decoded by one of them alone.

Weights are counted from the files' headers, and the transformer's as the catalog has them kept. Activations are those
of one dense forward of two of its blocks, by `live_bytes`: more blocks add weights, not activations. A job's LoRA
adapters count as weights, and run in that forward. Caches are AdaSpa's: an LSE and a list of key blocks for each row of
each head, layer and guidance branch, and a mean residual for each block of queries if sparse attention is compensated;
and those of a step cache, which holds some blocks' hidden states. Nothing is fitted.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import torch
from adaspa.selection import TopK
from adaspa_jobs.catalog import ModelSpec, Parallelism
from adaspa_jobs.job import JobParams

from adaspa_worker.attention import attention_config
from adaspa_worker.engines import in_groups, linears, step_cache
from adaspa_worker.engines.given import Asked
from adaspa_worker.engines.weights import by_type
from adaspa_worker.families import FAMILIES, TRANSFORMERS, limits_of, pipeline_of, read, transformers_of
from adaspa_worker.hub import index_of, unused
from adaspa_worker.live_bytes import META, Attention, Measured, measured
from adaspa_worker.pipeline import engine_class
from adaspa_worker.shares import parallelism

if TYPE_CHECKING:
    from adaspa_worker.loras.memory import LoraMemory

BLOCKS = 2
"""Blocks of the transformer whose activations are measured."""
WIDE = 0.5
"""Density that is reckoned with where a policy chooses it by what it finds."""
LSE_BYTES, ID_BYTES = 4, 2
"""Bytes of a row's LSE, and of a key block's number in a list."""
CUBLAS_BYTES = 32 * 2**20
"""Workspace of cuBLAS on Hopper, which PyTorch's allocator gives once; other GPUs take less."""
KEPT = 3
"""Copies of a clip, beside its tiles, that its putting together holds at once."""
EXCHANGED = 3
"""Tensors of the queries' size that come from other GPUs: queries, keys and values."""


@dataclass(frozen=True)
class Peak:
    """Peak GPU memory of a job, in bytes.

    Args:
        denoising: at most while it is denoised: weights, activations and caches.
        decoding: at most while it is decoded as a whole.
        tiled: the same in tiles.
    """

    denoising: int
    decoding: int
    tiled: int

    def tiles(self, limit: float) -> bool:
        """Return whether a job has to decode in tiles to stay within a limit."""
        return self.decoding > limit and self.tiled < self.decoding

    def with_tiles(self, *, tiled: bool) -> int:
        """Return the whole job's peak, decoded in tiles or as a whole."""
        return max(self.denoising, self.tiled if tiled else self.decoding)


class Preflight:
    """Memory of a model's jobs.

    Args:
        spec: the catalog entry.
        folder: of the model.
        low: the type that weights have by default.

    Raises:
        NotImplementedError: it is not known for such a model.
    """

    def __init__(self, spec: ModelSpec, folder: Path, low: torch.dtype = torch.bfloat16) -> None:
        self.spec, self.folder = spec, folder
        self.family = FAMILIES[pipeline_of(folder)]
        self.engine = engine_class(self.family.engine)
        self.limits, self.index = limits_of(folder), read(index_of(folder))
        self.config = self.configs[0]
        self.low = low if spec.memory.dtype is None else getattr(torch, spec.memory.dtype)
        self.shared = parallelism(spec, self.family) if spec.gpus > 1 else Parallelism(guidance=1, ulysses=1)
        self._forwards: dict[tuple[Any, ...], Measured] = {}
        self._decodes: dict[tuple[int, ...], int] = {}

    def peak(self, params: JobParams) -> Peak:
        """Return a job's peak. Raises NotImplementedError."""
        tiled = self.decoded(params, tiled=True)
        always = self.spec.memory.vae_tiling or self.vae.use_tiling
        whole = tiled if always else self.decoded(params, tiled=False)
        return Peak(self.denoised(params), whole, tiled)

    def least(self, params: JobParams) -> int:
        """Return a job's peak if it is decoded in tiles, which takes less time to find. Raises NotImplementedError."""
        return max(self.denoised(params), self.decoded(params, tiled=True))

    def denoised(self, params: JobParams) -> int:
        """Return the peak until the end of the denoising. Raises NotImplementedError."""
        held, _, encoded = self.held
        forward = self.forward(params)
        beside = self.caches(params, forward.attention) + self.step_cache(params, forward.attention)
        if self.spec.memory.group_offload:
            beside += max(self.resident[kind] + self.activations(self.forward(params, kind)) for kind in self.blocks)
        else:
            beside += self.activations(forward)
        return self.workspace + self.adapters(params) + max(encoded, held + beside)

    def decoded(self, params: JobParams, *, tiled: bool) -> int:
        """Return the peak while the clip is decoded."""
        _, held, _ = self.held
        adapters = 0 if self.spec.memory.cpu_offload else self.adapters(params)
        return self.workspace + adapters + held + self.decoding(params, tiled=tiled)

    @property
    def workspace(self) -> int:
        """Bytes that cuBLAS takes."""
        return CUBLAS_BYTES if torch.cuda.is_available() else 0

    # Weights

    @cached_property
    def weights(self) -> dict[str, int]:
        """Bytes of each component's weights as they lie on the GPU."""
        found = dict(zip(self.names, self.transformers, strict=True))
        found["vae"] = in_groups.size(self.vae.parameters())
        there = {*found, unused(self.index, self.spec.tasks)}
        for part in sorted(path for path in self.folder.iterdir() if path.is_dir() and path.name not in there):
            size = 4 if part.name in self.engine.in_float32 else self.low.itemsize
            if count := sum(math.prod(shape) for shape in shapes(part)):
                found[part.name] = count * size
        return found

    @cached_property
    def held(self) -> tuple[int, int, int]:
        """Bytes of the weights on the GPU while a clip is denoised, while it is decoded, and before, with encoders.

        Transformers whose blocks come and go do not count.
        """
        memory, parts = self.spec.memory, self.weights
        if memory.cpu_offload:
            return max(self.transformers), parts["vae"], max(parts.values())
        whole = sum(parts.values())
        if not memory.group_offload:
            return whole, whole, whole
        beside = sum(size for name, size in parts.items() if not name.startswith((*TRANSFORMERS, *in_groups.ENCODERS)))
        return beside, beside, beside

    @cached_property
    def resident(self) -> dict[str, int]:
        """Bytes of a transformer's weights on the GPU while blocks of a kind run, if blocks come and go."""
        return {
            kind: max(in_groups.resident(self.build(config, **self._without(kind))) for config in self.configs)
            for kind in self.blocks
        }

    @cached_property
    def configs(self) -> list[dict[str, Any]]:
        """Configurations of the transformers."""
        return [read(self.folder / name / "config.json") for name in self.names]

    @property
    def names(self) -> list[str]:
        """Names of the transformers."""
        return transformers_of(self.folder, self.spec.tasks)

    @cached_property
    def transformers(self) -> list[int]:
        """Bytes of each transformer's weights."""
        memory = self.spec.memory
        if memory.gguf is not None:
            return [Path(name).expanduser().stat().st_size for name in memory.gguf]
        return [self._kept(self.build(config)) for config in self.configs]

    def _kept(self, transformer: Any) -> int:
        """Bytes of a transformer on meta tensors, kept as the catalog has it."""
        memory = self.spec.memory
        if memory.storage_dtype is not None:
            transformer.enable_layerwise_casting(getattr(torch, memory.storage_dtype), compute_dtype=self.low)
        total = sum(by_type(transformer).values())
        if memory.quantization is not None:
            linear = [part for part in transformer.modules() if isinstance(part, torch.nn.Linear)]
            if memory.quantization == "float8":
                linear = list(linears.in_blocks(transformer).values())
            total -= sum(part.weight.nbytes - part.weight.numel() - 4 * part.out_features for part in linear)
        return total

    def adapters(self, params: JobParams) -> int:
        """Bytes of a job's LoRA adapters on the GPU."""
        if self.loras is None:
            return 0
        counts = self.loras.weights(params.loras or [])
        return self.low.itemsize * (max(counts) if self.spec.memory.cpu_offload else sum(counts))

    @cached_property
    def loras(self) -> "LoraMemory | None":
        """Memory of the catalog's adapters."""
        if not self.spec.loras:
            return None
        from adaspa_worker.loras.memory import LoraMemory  # noqa: PLC0415  with PEFT, which others do without

        pipeline = getattr(diffusers, pipeline_of(self.folder))
        return LoraMemory(self.spec, pipeline, self.build(self.config), len(self.configs))

    def build(self, config: Mapping[str, Any], **changes: object) -> Any:
        """Build the transformer of a configuration on meta tensors."""
        cls = getattr(diffusers, self.family.transformer)
        with META:
            model = cls.from_config(dict(config) | changes)
        self.engine.simplify(model)
        return cast(model, self.low)

    # Denoising

    def activations(self, forward: Measured) -> int:
        """Bytes that one GPU takes for a forward, beside weights and caches."""
        ulysses = self.shared.ulysses
        sent = EXCHANGED * max(call.bytes for call in forward.attention) if ulysses > 1 else 0
        return (forward.peak + sent) // ulysses

    def forward(self, params: JobParams, kind: str | None = None) -> Measured:
        """One dense forward of a job, by blocks of all kinds or of one. Raises NotImplementedError."""
        given = self.given(params)
        adapted = any(use.scale for use in params.loras or [])
        shapes = tuple(tuple(value.shape) for value in given.values() if isinstance(value, torch.Tensor))
        kind = kind if len(self.blocks) > 1 else None
        key = (adapted, kind, *shapes)
        if key not in self._forwards:
            small = self._adapted if adapted else self._small if kind is None else self._few_blocks(kind)
            there = [*small.parameters(), *small.buffers()]
            self._forwards[key] = measured(partial(small, **given), there)
        return self._forwards[key]

    def given(self, params: JobParams) -> dict[str, Any]:
        """Arguments of a forward of a job. Raises NotImplementedError."""
        asked = Asked(self.spec, params, self.limits, self.config, self.index, self.low, self.branches(params)[1])
        given = self.engine.given(asked)
        if given is None:
            raise NotImplementedError(f"the memory of {pipeline_of(self.folder)} is not modelled")
        found: dict[str, Any] = given
        return found

    @cached_property
    def _small(self) -> Any:
        """Transformer with a few of its blocks."""
        return self._few_blocks()

    def _few_blocks(self, kind: str | None = None) -> Any:
        few = {name: min(BLOCKS, count) for name, count in self.blocks.items()}
        return self.build(self.config, **few | ({} if kind is None else self._without(kind)))

    def _without(self, kind: str) -> dict[str, int]:
        """Changes of a configuration by which it has no blocks of other kinds."""
        return {name: 0 for name in self.blocks if name != kind}

    @cached_property
    def _adapted(self) -> Any:
        """Transformer with a few of its blocks, and slots for adapters."""
        small = self._few_blocks()
        assert self.loras is not None, "a job has adapters of its catalog entry alone"
        self.loras.insert_into(small)
        return small.requires_grad_(False)

    @cached_property
    def blocks(self) -> dict[str, int]:
        """Numbers of blocks, by the names that the configuration has for them."""
        return {name: self.config[name] for name in ("num_layers", "num_single_layers") if name in self.config}

    def guided(self, params: JobParams) -> bool:
        """Return whether a job has two guidance branches."""
        if self.engine.guidance == "input":
            return float(self.spec.call.get("true_cfg_scale", 1.0)) > 1
        return params.guidance_scale > 1

    def branches(self, params: JobParams) -> tuple[int, int]:
        """Guidance branches of a job on one GPU: forwards of a step, and samples in each."""
        count = 2 if self.guided(params) else 1
        own = math.ceil(count / self.shared.guidance)
        return (1, own) if self.engine.guidance == "batch" else (own, 1)

    def caches(self, params: JobParams, attention: tuple[Attention, ...]) -> int:
        """Bytes of AdaSpa's caches on one GPU at most, all layers, branches and transformers together."""
        plan = attention_config(self.spec.attention, params).resolve(params.steps)
        if not plan.schedule.searches:
            return 0
        longest = max(attention, key=lambda call: call.rows)
        branches = math.prod(self.branches(params))
        heads = math.ceil(longest.heads / self.shared.ulysses)
        count = sum(self.blocks.values()) * branches * len(self.transformers) * heads
        density = 1 - plan.selection.sparsity if isinstance(plan.selection, TopK) else WIDE
        listed = density * math.ceil(longest.rows / plan.query_block) * math.ceil(longest.keys / plan.key_block)
        row = longest.bytes / (longest.batch * longest.heads * longest.rows)
        residual = math.ceil(longest.rows / plan.key_block) * row if plan.compensates else 0
        total = round(count * (longest.rows * LSE_BYTES + listed * ID_BYTES + residual))
        return total if plan.cache_budget is None else min(total, plan.cache_budget * len(self.transformers))

    def step_cache(self, params: JobParams, attention: tuple[Attention, ...]) -> int:
        """Bytes that a step cache holds between two forwards, all branches and transformers together."""
        cache = self.spec.cache
        if cache is None or not cache.serves(params.quality):
            return 0
        hidden = max(call.bytes for call in attention)
        return step_cache.HELD[cache.kind] * hidden * self.branches(params)[0] * len(self.transformers)

    # Decoding

    def decoding(self, params: JobParams, *, tiled: bool) -> int:
        """Bytes that the VAE's decoding takes beside its weights."""
        asked = Asked(self.spec, params, self.limits, self.config, self.index, self.low)
        (frames, rows, columns), clip = asked.grid, self.clip(params)
        if not tiled:
            return self._decode(frames, rows, columns, clip)
        (high, down), (wide, across) = self.tiles
        if rows <= high and columns <= wide:
            return self._decode(frames, rows, columns, clip)
        high, wide = min(high, rows), min(wide, columns)
        whole = self._decode(frames, high, wide, round(clip * high * wide / (rows * columns)))
        peak = kept = 0.0
        for height, width in product(lengths(rows, high, down), lengths(columns, wide, across)):
            peak = max(peak, whole * height * width / (high * wide) + kept)
            kept += clip * height * width / (rows * columns)
        return round(max(peak, kept + KEPT * clip))

    def clip(self, params: JobParams) -> int:
        """Bytes of the decoded clip."""
        return 3 * params.num_frames * params.height * params.width * self.vae.dtype.itemsize

    def _decode(self, frames: int, rows: int, columns: int, clip: int) -> int:
        """Bytes of the decoding of latents of a size, which come to ``clip`` bytes."""
        lead = min(frames, self.engine.decodes_alike_after or frames)
        key = (lead, rows, columns)
        if key not in self._decodes:
            latents = torch.empty(1, self.channels, *key, dtype=self.vae.dtype, device=META)
            there = [*self.vae.parameters(), *self.vae.buffers(), latents]
            with_time = getattr(self.vae.config, "timestep_conditioning", False)
            given = (latents, torch.empty(1, device=META)) if with_time else (latents,)
            self._decodes[key] = measured(partial(self.vae.decode, *given, return_dict=False), there).peak
        return self._decodes[key] + round(clip * (frames - lead) / frames)

    @cached_property
    def vae(self) -> Any:
        """VAE of the video, on meta tensors."""
        config = read(self.folder / "vae" / "config.json")
        with META:
            vae = getattr(diffusers, config["_class_name"]).from_config(config)
        self.engine.simplify(vae)
        return cast(vae, torch.float32 if "vae" in self.engine.in_float32 else self.low)

    @cached_property
    def channels(self) -> int:
        """Channels of the latents."""
        return int(self.vae.config.get("z_dim") or self.vae.config["latent_channels"])

    @cached_property
    def vae_ratio(self) -> int:
        """Pixels along a side that are one latent."""
        patch = self.config.get("patch_size", 1)
        return self.limits.side // (patch if isinstance(patch, int) else patch[-1])

    @cached_property
    def tiles(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Latents along a tile's side, and from one tile to the next, downwards and across."""
        vae, found = self.vae, []
        for side in ("height", "width"):
            tile = getattr(vae, f"tile_sample_min_{side}")
            factor = getattr(vae, f"tile_overlap_factor_{side}", getattr(vae, "tile_overlap_factor", 0.25))
            overlap = getattr(vae, f"tile_sample_min_overlap_{side}", tile * factor)
            stride = getattr(vae, f"tile_sample_stride_{side}", tile - overlap)
            found.append((tile // self.vae_ratio, max(1, int(stride) // self.vae_ratio)))
        return found[0], found[1]


def preflight_of(spec: ModelSpec, folder: Path) -> Preflight:
    """Return the preflight of this process's model, made once. Raises NotImplementedError."""
    return _preflight(spec.model_dump_json(), folder)


@lru_cache(maxsize=1)
def _preflight(entry: str, folder: Path) -> Preflight:
    low = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    return Preflight(ModelSpec.model_validate_json(entry), folder, low)


def cast(model: Any, dtype: torch.dtype) -> Any:
    """Cast a model, except for modules that diffusers keeps in float32 when it loads one."""
    precise = set(model._keep_in_fp32_modules or ())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        if precise.isdisjoint(name.split(".")):
            parameter.data = parameter.data.to(dtype)
    return model.eval()


def lengths(total: int, tile: int, stride: int) -> list[int]:
    """Return the lengths of all tiles along a side of ``total``, in their order."""
    return [min(tile, total - start) for start in range(0, total, stride)]


def shapes(part: Path) -> Iterator[list[int]]:
    """Shapes of the weights of a component, from the headers of its files."""
    indexes = sorted(part.glob("*.safetensors.index.json"))
    if indexes:
        names = sorted(set(read(indexes[0])["weight_map"].values()))
    else:
        names = [
            name for name in ("diffusion_pytorch_model.safetensors", "model.safetensors") if (part / name).exists()
        ]
    for name in names:
        with (part / name).open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        yield from (entry["shape"] for key, entry in header.items() if key != "__metadata__")
