"""Run the adapters' checks against the servers' wheels: ``PYTHONPATH=tests python -m plugins [sglang] [vllm_omni]``.

Each server gets an environment of its own, thrown away at the end. It takes minutes and gigabytes, so it is no part of
the suite.
"""

import argparse
import subprocess
import sys
import venv
from pathlib import Path
from tempfile import TemporaryDirectory

SERVERS = {"sglang": ("sglang==0.5.23",), "vllm_omni": ("vllm==0.30.0", "vllm-omni==0.30.0")}
"""The wheels of each server, which are installed without what they need; NAME.txt has as much of that as is used."""


def check(server: str, wheels: tuple[str, ...]) -> int:
    """The exit code of the checks of one server."""
    here = Path(__file__).resolve().parent
    with TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = f"{folder}/bin/python"
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "-r", str(here / f"{server}.txt")], check=True)
        subprocess.run([*install, "--no-deps", *wheels, str(here.parents[1] / "kernels")], check=True)
        plain = ["--noconftest", "-c", "/dev/null", "--rootdir", str(here), "-p", "no:cacheprovider"]
        files = [str(file) for file in sorted(here.glob(f"{server}*_checks.py"))]
        tests = [python, "-m", "pytest", "-q", *plain, *files]
        return subprocess.run(tests, check=False, cwd=here.parents[1]).returncode  # where the benchmarks are found


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("servers", nargs="*", default=[*SERVERS])
asked = parser.parse_args().servers
if unknown := set(asked) - set(SERVERS):
    parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(SERVERS)}")
sys.exit(max(check(server, SERVERS[server]) for server in asked))
