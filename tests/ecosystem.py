"""The examples for other clients: LiteLLM and the Vercel AI SDK; and files that are signed by c2pa-python.

python tests/ecosystem.py     # a minute or two; outside the suite, because it installs LiteLLM and the AI SDK

Each makes a video through a running gateway, whose jobs a stand-in for the worker completes. Ends with status 1 if the
file that one of them wrote is not the video.
"""

import os
import subprocess
import sys
import threading
import venv
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory

from adaspa_jobs.settings import Settings
from running_gateway import FILES, Service, serving
from valkey_process import start_valkey

SIGNING = ("c2pa-python", "toml")
"""What signs files, beside what is here anyhow."""
EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


def work(service: Service, stopping: threading.Event) -> None:
    """Complete each job that comes, after a step that a client may see."""
    while not stopping.wait(0.1):
        if lease := service.store.claim("demo", "stand-in"):
            service.step(lease, 2)
            service.complete(lease)


def installed(folder: Path) -> dict[str, list[str]]:
    """The command of each example, with what it needs installed into a folder."""
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "litellm"], check=True)
    to = str(folder / "c2pa")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", to, *SIGNING], check=True)
    copytree(EXAMPLES / "ai-sdk", folder / "ai-sdk", ignore=lambda *_: ["node_modules"])
    subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--silent"], cwd=folder / "ai-sdk", check=True)
    return {
        "litellm": [str(python), str(EXAMPLES / "litellm_video.py")],
        "ai-sdk": ["node", str(folder / "ai-sdk" / "generate.mjs")],
    }


def run(service: Service, folder: Path) -> list[str]:
    """Run every example; those that did not write the video."""
    own = {"ADASPA_SERVER": service.url, "ADASPA_API_KEY": "none", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    failed = []
    for name, command in installed(folder).items():
        output = folder / f"{name}.mp4"
        done = subprocess.run([*command, str(output)], env=os.environ | own, check=False)
        if done.returncode or output.read_bytes() != FILES["video"][2]:
            failed.append(name)
        print(f"{name}: {'FAILED' if name in failed else 'a video'}", flush=True)
    tests = [sys.executable, "-m", "pytest", "-q", str(EXAMPLES.parents[1] / "tests" / "worker" / "test_provenance.py")]
    if subprocess.run(tests, env=os.environ | {"PYTHONPATH": str(folder / "c2pa")}, check=False).returncode:
        failed.append("c2pa")
    return failed


def main() -> None:
    """Run the examples against a gateway of their own."""
    with TemporaryDirectory(prefix="adaspa-") as name:
        folder, stopping = Path(name), threading.Event()
        valkey = start_valkey(folder)
        try:
            redis_url = f"unix://{folder}/valkey.sock?db=0"
            settings = Settings(redis_url=redis_url, storage_url=str(folder / "objects"), open_access=True)
            with serving(settings, folder) as service:
                worker = threading.Thread(target=work, args=(service, stopping))
                worker.start()
                try:
                    failed = run(service, folder)
                finally:
                    stopping.set()
                    worker.join()
        finally:
            valkey.terminate()
            valkey.wait()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
