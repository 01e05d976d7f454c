"""AdaSpa on a plain diffusers pipeline, without the service: dense and sparse, side by side.

    python docs/examples/wan.py "a large red circle moves left" --preset fast
    python docs/examples/wan.py "a cat surfs" --pipeline path/to/wan --frames 81 --size 832x480 --steps 50

Writes dense.mp4 and sparse.mp4. Prints the seconds of both and what AdaSpa did. The default is the demo model.
"""

import argparse
import time
from pathlib import Path

import adaspa
import av
import torch
from adaspa_demo_model import PIPELINE_FOLDER
from diffusers import WanPipeline


def write(path: Path, frames: torch.Tensor, fps: int = 16) -> None:
    """Frames in 0..1, ``[F, 3, H, W]``, as H.264."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=fps)
        stream.height, stream.width = frames.shape[2:]
        stream.pix_fmt = "yuv420p"
        for frame in (frames.float() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt")
    parser.add_argument("--pipeline", type=Path, default=PIPELINE_FOLDER, help="folder in diffusers format")
    parser.add_argument("--preset", choices=["exact", "quality", "balanced", "fast"], default="balanced")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--size", default="128x128", help="WIDTHxHEIGHT")
    parser.add_argument("--output", type=Path, default=Path(), help="folder of the two videos")
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    pipe = WanPipeline.from_pretrained(arguments.pipeline, dtype=torch.bfloat16 if cuda else torch.float32)
    pipe.to("cuda" if cuda else "cpu")
    width, height = map(int, arguments.size.split("x"))
    for name in ("dense", "sparse"):
        if name == "sparse":
            adaspa.apply(pipe, adaspa.AdaSpaConfig.preset(arguments.preset))
        start = time.perf_counter()
        frames = pipe(
            arguments.prompt,
            num_inference_steps=arguments.steps,
            num_frames=arguments.frames,
            width=width,
            height=height,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).frames[0]
        print(f"{name}: {time.perf_counter() - start:.1f} s")
        write(arguments.output / f"{name}.mp4", frames)
    print({key: value for key, value in pipe.transformer.adaspa.report().items() if key != "layers"})


if __name__ == "__main__":
    main()
