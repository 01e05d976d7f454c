"""The documentation: it builds into a site that needs nothing from elsewhere, and leads to what is there.

What it tells to type is run by tests/e2e/test_docs.py.
"""

import json
import re
import runpy
import subprocess
import sys
import tomllib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from statistics import mean

import av
import pytest
from pages import PAGES, ROOT, check_parses, name

PIP = r"(?:python -m )?pip install "
ELSEWHERE = re.compile(r"""<(?:script|link|img|iframe|source)[^>]+(?:src|href)=["'](?:https?:)?//""")


def told(pattern: str) -> list[str]:
    """What stands as code in the pages' sentences and tables and is like the pattern."""
    return sorted({found for page in PAGES for found in re.findall(rf"`({pattern}[^`\n]*)`", page.read_text())})


def test_the_site_is_complete_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", ".mkdocs.yml", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").rglob("*.md")))
    assert [page.name for page in pages if ELSEWHERE.search(page.read_text())] == []


@pytest.mark.parametrize("command", told(r"(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?adaspa "))
def test_a_command_in_a_sentence_is_there(command: str) -> None:
    check_parses(command)


# Not pip, at whose mere mention setuptools' import hook gives up, and with it torch.compile in this process.
@pytest.mark.parametrize("command", told(r"python -m (?!pip )"))
def test_a_module_in_a_sentence_is_there(command: str) -> None:
    assert find_spec(command.split()[2]) is not None


def test_what_a_sentence_tells_to_install_from_the_checkout_is_there() -> None:
    told_paths = [re.findall(r"(\./[\w/]*|\.)(?:\[(\w+)\])?(?= |'|`)", command + "`") for command in told(PIP)]
    asked = {path_and_extra for found in told_paths for path_and_extra in found}
    assert asked == {("./kernels", ""), ("./kernels", "diffusers"), ("./service/client", "")}
    for folder, extra in asked:
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
        assert not extra or extra in project["optional-dependencies"]


def test_the_system_packages_that_are_told_are_those_that_the_tests_get() -> None:
    told_packages = re.findall(r"apt-get install ([^`]+)`", (ROOT / "README.md").read_text())
    (got,) = re.findall(r"^packages=\((.*)\)$", (ROOT / ".ci" / "run").read_text(), re.M)
    assert " ".join(told_packages) == got


@cache
def anchors(page: Path) -> set[str]:
    """Those of a page's headings, as a forge makes them."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"[^\w -]", "", re.sub(r"\]\([^)]*\)", "", head)).lower().replace(" ", "-") for head in heads]
    assert len(plain) == len(set(plain)), "two headings of a page have one name"
    return set(plain)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            found = (page.parent / path).resolve() if path else page
            assert found.exists(), target
            assert not anchor or anchor in anchors(found), target


def test_no_table_swallows_the_paragraph_after_it() -> None:
    rows = r"^\|.*\n(?!\||\n|<!--).+$"
    assert [(name(page), re.findall(rows, page.read_text(), re.MULTILINE)) for page in PAGES] == [
        (name(page), []) for page in PAGES
    ]


MEMORY = {
    "Wan 2.1 14B": "wan2.1-14b-720p-81f",
    "Wan 2.1 1.3B": "wan2.1-1.3b-480p-81f",
    "HunyuanVideo": "hunyuan-video-13b-720p-129f",
    "HunyuanVideo 1.5": "hunyuan-video1.5-8b-i2v-720p-121f",
    "Mochi": "mochi-10b-480p",
    "CogVideoX 1.5": "cogvideox1.5-5b-720p-81f",
    "VAE of Wan": "AutoencoderKLWan",
    "VAE of HunyuanVideo": "AutoencoderKLHunyuanVideo",
    "VAE of Mochi": "AutoencoderKLMochi",
    "LTX-Video": "ltx-video-2b",
    "VAE of LTX-Video": "AutoencoderKLLTXVideo",
}
"""Models of the table of GPU memory, by the names that the benchmark has for them."""
KEPT = {"bf16": "bfloat16", "float8": "float8_e4m3fn", "int8": "int8", "whole": False, "tiles": True}


def test_the_gpu_memory_that_is_told_is_that_of_the_figures() -> None:
    measured: dict[tuple[object, ...], int] = {}
    for row in json.loads((ROOT / "docs" / "kernels" / "memory.json").read_text())["rows"]:
        peak = row["peak_bytes"]
        key = (row["model"], row.get("kept", row.get("tiled")), row["size"])
        measured[key] = max(peak.values()) if isinstance(peak, dict) else peak
    line = r"^\| ([^|]+), (\w+) \| (\w+), (\d+) \| [\d.]+ \| ([\d.]+) \|$"
    told = re.findall(line, (ROOT / "docs" / "models.md").read_text(), flags=re.MULTILINE)
    assert len(told) > 5
    for model, kept, size, frames, gigabytes in told:
        assert f"{measured[MEMORY[model], KEPT[kept], f'{size}, {frames} frames'] / 1e9:.1f}" == gigabytes


def test_the_seconds_of_encoding_a_prompt_are_those_of_the_figures() -> None:
    rows = json.loads((ROOT / "docs" / "kernels" / "encoders.json").read_text())["rows"]
    wan, hunyuan = (f"{row['seconds']:.2f} s" for row in rows)
    told = (ROOT / "docs" / "operations.md").read_text()
    assert f"UMT5-XXL takes {wan} for" in told and f"Llama 3 8B takes {hunyuan} for" in told


KEPT_AS = {"nothing": "as they are", "quantization": "int8", "storage_dtype": "float8_e4m3fn", "gguf": "gguf"}
"""Fields of the table of host memory, and the benchmark's names for them."""


def test_the_host_memory_that_is_told_is_that_of_the_figures() -> None:
    rows = json.loads((ROOT / "docs" / "kernels" / "loading.json").read_text())["rows"]
    found = {row["kept"]: row for row in rows if row["files"] == "float32"}
    line = r"^\| `?(\w*)`?[^|]*\| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$"
    told = re.findall(line, (ROOT / "docs" / "operations.md").read_text(), flags=re.MULTILINE)
    assert {field for field, *_ in told} == set(KEPT_AS)
    for field, *megabytes in told:
        row = found[KEPT_AS[field]]
        measured = (row[f"{name}_bytes"] for name in ("loaded", "peak", "held", "gone"))
        assert megabytes == [f"{value / 1e6:.0f}" for value in measured]


ADAPTERS = {
    "none": ["none"],
    "rank 64": ["one, cached", "one, cached again"],
    "rank 32": ["two, cached"],
    "both": ["both"],
}
"""Rows of the table of LoRA adapters, by what the benchmark calls them once their files are read."""
READ = {"rank 64": "one, read", "rank 32": "two, read"}


def test_what_adapters_are_told_to_cost_is_what_was_measured() -> None:
    found = json.loads((ROOT / "docs" / "kernels" / "adapters.json").read_text())["rows"]
    plain, compiled = (
        {row["adapters"]: row for row in found if row["blocks"] == kind} for kind in ("plain", "compiled")
    )
    base = plain["before any"]["peak_bytes"]
    line = r"^\| (none|rank 64|rank 32|both) \| ([\d.]*) ?\| ([\d.]+(?: to [\d.]+)?) \| ([\d.]+) \| ([\d.]*) ?\|$"
    told = re.findall(line, (ROOT / "docs" / "loras.md").read_text(), flags=re.MULTILINE)
    assert [which for which, *_ in told] == list(ADAPTERS)
    for which, read, cached, seconds, gigabytes in told:
        rows = [plain[each] for each in ADAPTERS[which]]
        assert read == (f"{plain[READ[which]]['switch_seconds']:.1f}" if which in READ else "")
        assert cached == " to ".join(sorted({f"{row['switch_seconds']:.2f}" for row in rows}))
        assert f"{rows[0]['forward_seconds']:.2f}" == seconds
        more = (rows[0]["peak_bytes"] - base) / 1e9
        assert gigabytes == (f"{more:.2f}" if more > 0.1 else "")
    assert max(row.get("graphs", 0) for row in compiled.values()) == 2


def test_what_the_library_brings_is_what_its_tables_say() -> None:
    text = (ROOT / "kernels" / "README.md").read_text()

    def psnr_of(name: str, *files: str) -> str:
        rows = [
            row
            for file in files
            for row in json.loads((ROOT / "docs" / "kernels" / f"{file}.json").read_text())["rows"]
        ]
        return f"{mean(row['psnr'] for row in rows if row['name'] == name):.1f}"

    cells = r"^\| ([^|]+) \| [\d.]+ \| (\d+) \| ([\d.]+)(?: times)? \| ([\d.]*) ?\| ([\d.]*) ?\|$"
    told = re.findall(cells, text, re.MULTILINE)
    assert len(told) == 5
    for row, seconds, speed, short, long in told:
        timed = re.sub("^`(.*)`", r"preset \1", row).replace("schedule,", "schedule and sparsity,")
        assert f"| {timed} | {seconds} ({float(speed):.2f}x) |" in text
        measured = timed if "preset" in timed else "query block 128"
        assert not short or short == psnr_of(
            measured, "fidelity", "candidates-20261142", "candidates-20261203", "presets"
        )
        assert not long or long == psnr_of(measured, "long-9216")


def test_what_is_told_of_linear_layers_in_e4m3_is_what_the_tables_say() -> None:
    text = (ROOT / "kernels" / "README.md").read_text()
    told = r"^\| hunyuan-video-13b-720p-129f \| [\d,]+ \| sparse, 0.2 \| (\w+) \| ([\d.]+) \(([\d.]+)x\) \|"
    steps = {kind: tuple(map(float, row)) for kind, *row in re.findall(told, text, re.MULTILINE)}
    (plain, _), (small, speed) = steps["bf16"], steps["e4m3"]
    for page in ("docs/models.md", "docs/tuning.md", "docs/changelog.md", "kernels/README.md"):
        seconds = f"{small:.1f} (?:s )?instead of {plain:.1f} s"
        assert re.search(seconds, (ROOT / page).read_text()), page
    whole = json.loads((ROOT / "docs" / "kernels" / "paper-steps.json").read_text())["rows"]
    bf16 = [row for row in whole if row["step"] == "sparse" and "sparse_precision" not in row]
    rest = {row["linears"]: row["seconds"] - row["groups"]["attention"] for row in bf16}
    assert f"{rest['float8']:.1f} s are not attention ({rest['bfloat16']:.1f} s before)" in text
    (times,) = re.findall(r"with FlashAttention-3, ([\d.]+) times as long", text)
    assert f"the paper's schedule is\n{times} times as fast as FlashAttention-3" in text
    assert f"A sparse step is then {speed:.1f} times as\nfast" in text
    for schedule in ("paper", "three dense steps"):
        (found,) = re.findall(rf"^\| hunyuan-\S+ \| {schedule} \| \d+ \| .* \d+ \(([\d.]+)x\) \|$", text, re.MULTILINE)
        assert f"{found} times" in text
    told = r"^\| (fast|balanced) \| (\S+).* \| ([\d.]+) \| ([\d.]+)x(?: \| [\d.]+x){3} \|$"
    presets = {row[:2]: row[2:] for row in re.findall(told, text, re.MULTILINE)}
    (slow, slow_speed), (fast, fast_speed) = presets["balanced", "mag"], presets["fast", "mag"]
    assert f"has {slow} dB. HunyuanVideo's steps would then be {slow_speed} times as fast" in text
    assert f"`fast` has {fast} dB, and would be {fast_speed} times as fast" in text
    without = (presets[name, "none"][1] for name in ("balanced", "fast"))
    assert "Without a cache they are {} and {} times as fast".format(*without) in text
    rows = json.loads((ROOT / "docs" / "kernels" / "linears.json").read_text())["rows"]
    hunyuan = [row for row in rows if row["model"].startswith("hunyuan") and row.get("linears") == "float8"]
    full, eight = (
        {row["step"]: row["seconds"] for row in hunyuan if row.get("sparse_precision") == kind}
        for kind in (None, "int8_fp8")
    )
    assert f"{eight['two_pass_search']:.1f} s instead of {eight['dense_with_lse']:.1f} s in eight bits" in text
    assert f"As one fused pass in bf16 it takes\n{full['fused_search']:.1f} s" in text
    dense = 50 * next(row["seconds"] for row in rows if row.get("attention") == "fa3")
    run = json.loads((ROOT / "docs" / "kernels" / "denoise-hunyuan-everything.json").read_text())
    assert run["complete"] and f"all 50 steps took {run['seconds']:.0f} s for real" in text
    assert f"That is {dense / run['seconds']:.2f} times as fast as 50 dense steps with FlashAttention-3" in text
    assert f"The cache skipped {sum('reused' in row for row in run['rows'])} steps" in text
    videos = json.loads((ROOT / "docs" / "kernels" / "linears-videos.json").read_text())["rows"]
    psnr = {row["linears"]: row["to_dense"]["psnr"] for row in videos if "to_dense" in row}
    assert f"{psnr['float8']:.1f} dB from those in bf16, and videos in float32 are {psnr['float32']:.1f} dB" in text
    assert f"{psnr['float8']:.1f} dB from those in bfloat16" in (ROOT / "docs" / "models.md").read_text()
    tried = json.loads((ROOT / "docs" / "kernels" / "linears-fusing.json").read_text())["rows"]
    before, fused, held = (row["shares"]["rest"] for row in tried)
    assert f"{fused:.2f} s instead of {before:.2f} s" in text and f"leaves `rest` at {held:.2f} s" in text


def test_the_plain_diffusers_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, which has PyTorch and diffusers."""
    line = ["wan.py", "a red star rotates", "--steps", "3", "--frames", "5", "--preset", "fast", "--output", tmp_path]
    monkeypatch.setattr(sys, "argv", list(map(str, line)))
    runpy.run_path(str(ROOT / "docs" / "examples" / "wan.py"), run_name="__main__")
    told = capsys.readouterr().out
    assert "dense:" in told and "'sparse_steps': " in told
    for file in ("dense.mp4", "sparse.mp4"):
        with av.open(str(tmp_path / file)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 5
