"""A pipeline as its catalog entry has it: loaded, with AdaSpa on its transformers, and placed."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import adaspa
import torch
from adaspa_jobs.catalog import ModelSpec
from diffusers import PipelineQuantizationConfig, TorchAoConfig

from adaspa_worker.attention import operator_config
from adaspa_worker.engines import in_groups, linears, step_cache
from adaspa_worker.engines.compiling import compile_blocks
from adaspa_worker.engines.weights import check_moves
from adaspa_worker.families import FAMILIES, TRANSFORMERS, limits_of, pipeline_of
from adaspa_worker.hub import first_line
from adaspa_worker.memory_limit import memory_limit
from adaspa_worker.schedulers import served
from adaspa_worker.shares import parallelism
from adaspa_worker.source import ModelUnavailable

if TYPE_CHECKING:
    from adaspa_worker.loras.slots import Loras


class LoadedModel:
    """A model's pipeline on its device.

    Args:
        spec: the catalog entry.
        folder: its diffusers folder. On CUDA the weights are bfloat16, elsewhere float32, unless ``spec.memory`` names
            another type.

    Raises:
        ModelUnavailable: the folder does not load.
    """

    pipeline: type
    """Pipeline class of diffusers."""
    in_float32: tuple[str, ...] = ()
    """Parts of the pipeline that need full precision on a GPU too."""

    def __init__(self, spec: ModelSpec, folder: Path) -> None:
        self.spec = spec
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        memory_limit()  # what is free before the model takes its own
        try:
            self.limits = limits_of(folder)
            self.pipe = self._load(folder)
            self.transformers: list[Any] = [
                part for name in TRANSFORMERS if (part := getattr(self.pipe, name, None)) is not None
            ]
            adaspa.apply(self.pipe, operator_config(spec.attention))
            if spec.cache is not None:
                step_cache.check_takes(spec.cache, self.transformers)
            self._loras = self._with_loras()
            self._keep_small()
            self._place()
            self._shared = parallelism(spec, FAMILIES[pipeline_of(folder)]) if spec.gpus > 1 else None
            if self._shared is not None:
                adaspa.parallelize(self.pipe, **self._shared.model_dump())
        except (torch.OutOfMemoryError, ModelUnavailable):
            raise
        except Exception as error:
            raise ModelUnavailable(f"{folder}: cannot be loaded ({first_line(error)})") from error
        if spec.compile:
            self._compile()
        self.pipe.set_progress_bar_config(disable=True)

    def let_go(self) -> None:
        """Take the part that was at work last from the GPU, where parts are kept in host memory."""
        self.pipe.maybe_free_model_hooks()

    def dtypes(self) -> dict[str, torch.dtype]:
        """Return the data types of the components' weights by name; ``default`` is for all others."""
        low = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        if (named := self.spec.memory.dtype) is not None:
            low = getattr(torch, named)
        return {"default": low, **dict.fromkeys(self.in_float32, torch.float32)}

    def _load(self, folder: Path) -> Any:
        pipe = self.pipeline.from_pretrained(  # type: ignore[attr-defined]
            folder, dtype=self.dtypes(), use_safetensors=True, local_files_only=True, **self._quantized(folder)
        )
        pipe.scheduler = served(self.spec, pipe.scheduler)
        return pipe

    def _quantized(self, folder: Path) -> dict[str, Any]:
        """Arguments of ``from_pretrained`` for smaller weights."""
        if (files := self.spec.memory.gguf) is not None:
            from adaspa_worker.engines import gguf_file  # noqa: PLC0415  optional

            dtype = self.dtypes()["default"]
            return {
                name: gguf_file.load(Path(file).expanduser(), folder / name, dtype)
                for name, file in zip(TRANSFORMERS, files, strict=False)
            }
        if self.spec.memory.quantization != "int8":
            return {}
        from torchao.quantization import Int8WeightOnlyConfig  # noqa: PLC0415  optional

        mapping = {name: TorchAoConfig(Int8WeightOnlyConfig()) for name in TRANSFORMERS if (folder / name).is_dir()}
        return {"quantization_config": PipelineQuantizationConfig(quant_mapping=mapping)}

    def _with_loras(self) -> "Loras | None":
        if not self.spec.loras:
            return None
        from adaspa_worker.loras.slots import Loras  # noqa: PLC0415  with PEFT, which others do without

        return Loras(self.spec, self.pipeline, self.transformers)

    def _keep_small(self) -> None:
        if self.spec.memory.quantization == "float8":
            for transformer in self.transformers:
                linears.compute_in_float8(transformer, self.device)
        if (name := self.spec.memory.storage_dtype) is not None:
            for transformer in self.transformers:
                transformer.enable_layerwise_casting(getattr(torch, name), compute_dtype=transformer.dtype)

    def _place(self) -> None:
        if self.spec.memory.vae_tiling:
            self.pipe.vae.enable_tiling()
        if self.spec.memory.cpu_offload and self.device.type == "cuda":
            for transformer in self.transformers:
                check_moves(transformer, self.device)
            self.pipe.enable_model_cpu_offload(device=self.device)
        elif self.spec.memory.group_offload:
            in_groups.place(self.pipe, self.transformers, self.device)
        else:
            self.pipe.to(self.device)

    def _compile(self) -> None:
        options = linears.compile_options() if self.spec.memory.quantization == "float8" else None
        for transformer in self.transformers:
            # Not dynamic=False: every size and length would compile again, up to PyTorch's limit for one function,
            # and those after that would run uncompiled. By default what turns out to change becomes a variable:
            # the first size has a graph of its own, and after a few others one serves them all.
            compile_blocks(transformer, options=options)
