"""Shares of a worker's GPUs in the work on a video."""

from adaspa_jobs.catalog import ModelSpec, Parallelism

from adaspa_worker.families import Family


def parallelism(spec: ModelSpec, family: Family) -> Parallelism:
    """Return what the catalog says, or else what makes the model's default request fastest.

    Two guidance branches side by side exchange next to nothing; parts of the tokens are exchanged in every layer
    (docs/kernels/parallel.json).
    """
    if spec.parallelism is not None:
        return spec.parallelism
    branches = 2 if family.branches and spec.default_guidance > 1 and spec.gpus % 2 == 0 else 1
    return Parallelism(guidance=branches, ulysses=spec.gpus // branches)
