"""Parts that all modular pipelines of diffusers share: blocks that hand a state on, of which ``denoise`` is one."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from adaspa_api.words import Role
from adaspa_jobs.job import JobParams
from diffusers import ComponentsManager
from diffusers.modular_pipelines import PipelineState

from adaspa_worker.engines import own_call
from adaspa_worker.engines.base import DiffusersEngine
from adaspa_worker.engines.encodings import Answer, Lengths, identity
from adaspa_worker.families import read
from adaspa_worker.hub import index_of, unused
from adaspa_worker.pipeline import Encoded, Given
from adaspa_worker.schedulers import served
from adaspa_worker.source import ModelUnavailable

DENOISE = "denoise"
"""Name of the block after which nothing is encoded any more; before it, all is."""
TEXTS = "text_encoder"
"""Name of the block that encodes the texts."""


class ModularEngine(DiffusersEngine):
    """A modular pipeline. The blocks before ``denoise`` encode a job; the others go on from the state they leave."""

    def _load(self, folder: Path) -> Any:
        offloads = self.spec.memory.cpu_offload and self.device.type == "cuda"
        self._manager = ComponentsManager() if offloads else None
        pipe = self.pipeline.from_pretrained(  # type: ignore[attr-defined]
            folder, components_manager=self._manager, local_files_only=True
        )
        left_out = unused(read(index_of(folder)), self.spec.tasks)
        names = [name for name in pipe.pretrained_component_names if (folder / name).is_dir() and name != left_out]
        others = self.own_components(folder)
        pipe.register_components(**others)
        pipe.load_components(
            [name for name in names if name not in others],
            pretrained_model_name_or_path=str(folder),  # wherever else the index has them from
            dtype=self.dtypes(),
            use_safetensors=True,
            local_files_only=True,
        )
        for name in names:
            if getattr(pipe, name) is None:  # diffusers has logged why, and goes on without
                raise ModelUnavailable(f"{folder}: {name} cannot be loaded")
        pipe.scheduler = served(self.spec, pipe.scheduler)
        self.state = PipelineState()
        """State of the job being denoised."""
        self._blocks = pipe.blocks.sub_blocks
        _without_bars(self._blocks)
        return pipe

    def own_components(self, folder: Path) -> dict[str, Any]:
        """Components that the pipeline does not load itself."""
        return {}

    def _place(self) -> None:
        if self._manager is None:
            super()._place()
            return
        if self.spec.memory.vae_tiling:
            self.pipe.vae.enable_tiling()
        self._manager.enable_auto_cpu_offload(device=self.device)

    def let_go(self) -> None:
        """Do nothing: the next component makes its own room."""

    def encode_prompt(self, params: JobParams, images: Mapping[Role, Given] = MappingProxyType({})) -> Encoded:
        self._memory.begin(params)
        asked = {"prompt": params.prompt, "negative_prompt": params.negative_prompt, "output_type": "pt"}
        given = asked | self.shape(params) | self.pictures(params, images) | {"num_inference_steps": params.steps}
        given |= self.spec.call | self.arguments(params)
        given["generator"] = torch.Generator().manual_seed(params.seed)
        state = PipelineState()
        for each in self.pipe.blocks.inputs:
            state.set(each.name, given.get(each.name, each.default), each.kwargs_type)
        names = list(self._blocks)
        with own_call.lengths_of(self.pipe.tokenizer) as lengths:
            for name in names[: names.index(DENOISE)]:
                if name == TEXTS:
                    self._encode_texts(params, state, lengths)
                else:
                    self._run([name], state)
        limit = state.get("prompt_embeds").shape[1]
        counts = (own_call.count(whole, cut_to, limit) for whole, cut_to in lengths)
        return Encoded((state,), dict(zip(own_call.texts(params), counts, strict=False)), images)

    def _encode_texts(self, params: JobParams, state: PipelineState, lengths: Lengths) -> None:
        """Encode the texts, or take what was encoded of the same texts and images."""
        block = self._blocks[TEXTS]
        outputs = block.intermediate_outputs

        def encode() -> Answer:
            self._run([TEXTS], state)
            return tuple(state.get(each.name) for each in outputs)

        given = {each.name: state.get(each.name) for each in block.inputs}
        key = identity(self.pipe, (params.guidance_scale > 1,), given)  # without guidance there is no second text
        answer = self.encodings.answer(key, encode, lengths)
        for each, value in zip(outputs, answer, strict=True):
            state.set(each.name, value, each.kwargs_type)

    @contextmanager
    def goes_on(
        self, pipe: Any, params: JobParams, encoded: Encoded, generator: torch.Generator
    ) -> Iterator[Callable[[], None]]:
        (before,) = encoded.answers
        generator.set_state(before.get("generator").get_state())
        state = PipelineState(dict(before.values), {kind: list(names) for kind, names in before.kwargs_mapping.items()})
        state.set("generator", generator)
        names = list(self._blocks)
        self.state = state
        yield lambda: self._run(names[names.index(DENOISE) :], state)

    def reset(self) -> None:
        self.state = PipelineState()
        super().reset()

    @torch.no_grad()
    def _run(self, names: list[str], state: PipelineState) -> None:
        # What a block raises comes through; diffusers writes it into the log besides, a stop as well as an error.
        theirs = logging.getLogger("diffusers.modular_pipelines.modular_pipeline")
        theirs.disabled = True
        try:
            for name in names:
                self._blocks[name](self.pipe, state)
        finally:
            theirs.disabled = False


def _without_bars(blocks: Mapping[str, Any]) -> None:
    for block in blocks.values():
        if hasattr(block, "set_progress_bar_config"):
            block.set_progress_bar_config(disable=True)
        _without_bars(block.sub_blocks)
