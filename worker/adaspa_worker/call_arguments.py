"""Arguments of a pipeline's call that a catalog can give, read without loading the pipeline."""

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TAKEN = {
    *("self", "image", "last_image", "video", "conditions", "frame_index", "prompt", "negative_prompt"),
    *("mask", "reference_images", "reference_conditions"),
    *("height", "width", "num_frames", "frame_rate", "num_inference_steps", "guidance_scale"),
    *("num_videos_per_prompt", "output_type", "return_dict"),
}
"""Arguments of a pipeline's call that come from the job or from the worker."""
PLAIN = (bool, int, float, str, dict, dict[str, Any])
"""Types of a modular pipeline's arguments that a catalog can give."""
NUMBER = (int, float)
NOT_JSON = ("Tensor", "Generator", "Callback")
"""Types of arguments that no catalog can give; and lists of names for a callback are of no use without one."""


def call_arguments(pipeline: str) -> dict[str, Any]:
    """Return the arguments that a catalog can give to a pipeline of diffusers, with plain defaults if any."""
    if pipeline.endswith("ModularPipeline"):
        return block_inputs(pipeline)
    diffusers = find_spec("diffusers")
    assert diffusers is not None and diffusers.origin is not None
    for file in sorted(Path(diffusers.origin).parent.glob("pipelines/*/pipeline_*.py")):
        if f"\nclass {pipeline}(" in (source := file.read_text(encoding="utf-8")):
            break
    bodies = [node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == pipeline]
    (call,) = [node for node in bodies[0] if isinstance(node, ast.FunctionDef) and node.name == "__call__"]
    names, values = call.args.args, call.args.defaults
    defaults = [None] * (len(names) - len(values)) + [plain(value) for value in values]
    return {
        name.arg: default
        for name, default in zip(names, defaults, strict=True)
        if "callback" not in name.arg and not (name.annotation and mentions(ast.unparse(name.annotation)))
    }


def block_inputs(pipeline: str) -> dict[str, Any]:
    """Return the arguments of a modular pipeline: what its blocks take and no other block makes."""
    import diffusers  # noqa: PLC0415  no file of it tells them all: the blocks are asked

    blocks = getattr(diffusers, getattr(diffusers, pipeline).default_blocks_name)()
    named = [each for each in blocks.inputs if each.name]  # some tell their type, others have a default alone
    return {each.name: each.default for each in named if each.type_hint in PLAIN or isinstance(each.default, NUMBER)}


def mentions(annotation: str) -> bool:
    return any(name in annotation for name in NOT_JSON)


def plain(node: ast.expr) -> Any:
    """Return the value of a literal; None of anything else."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def fits(value: object, default: object) -> bool:
    """Tell whether a value is of the default's kind; a whole number is also a float."""
    kinds = (int, float) if isinstance(default, float) else type(default)
    return isinstance(value, kinds) and isinstance(value, bool) == isinstance(default, bool)
