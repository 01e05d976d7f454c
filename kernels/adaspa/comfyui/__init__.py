"""A ComfyUI node: the whole of ``custom_nodes/adaspa.py`` is ``from adaspa.comfyui import NODE_CLASS_MAPPINGS``."""

from adaspa.comfyui.node import AdaSpaNode

NODE_CLASS_MAPPINGS = {"AdaSpa": AdaSpaNode}

__all__ = ["NODE_CLASS_MAPPINGS", "AdaSpaNode"]
