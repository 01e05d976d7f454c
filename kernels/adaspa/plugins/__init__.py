"""Entry points of servers that take attention from outside: each loads its adapter if it knows the version."""

import logging
from importlib import import_module, metadata

logger = logging.getLogger(__name__)

TESTED = {"sglang": ("0.5.23",), "vllm-omni": ("0.30.",)}
"""Versions of each server that its adapter was run with, by how they begin."""


def into_vllm_omni() -> None:
    """Take the place of vLLM-Omni's ``RAINFUSION_ATTN``, its one block-sparse backend, which needs an NPU."""
    adapter = "vllm_omni" if is_tested("vllm-omni") else "vllm_omni_dense"
    import_module(f"{__name__}.{adapter}").register()


def into_sglang() -> None:
    """Take the place of SGLang's ``rain_fusion_attn``, a block-sparse backend of its own, which needs an NPU."""
    adapter = "sglang" if is_tested("sglang") else "sglang_dense"
    import_module(f"{__name__}.{adapter}").register()


def is_tested(server: str) -> bool:
    """Tell whether an adapter was run with the installed version of ``server``; a warning names those that it was."""
    version, tested = metadata.version(server), TESTED[server]
    if version.startswith(tested):
        return True
    known = ", ".join(f"{start}*" if start.endswith(".") else start for start in tested)
    logger.warning("AdaSpa stays dense: it was tested with %s %s, but this is %s", server, known, version)
    return False
