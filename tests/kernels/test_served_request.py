"""What the servers' adapters share; their own checks run by ``python -m plugins`` in environments of their own."""

import json

import naive_attention as naive
import pytest
import torch
from adaspa.config import AdaSpaConfig
from adaspa.layout import Layout
from adaspa.plugins.served_request import ServedRequest
from adaspa.plugins.settings import ServerSettings, from_environment
from adaspa.schedule import Schedule, StepKind

CONFIG = AdaSpaConfig(sparsity=0.8, block_size=16, steps=6, warmup=2, searches=(2, 4))
BEFORE, VIDEO = 10, 150


def served(steps: int, settings: AdaSpaConfig | ServerSettings = CONFIG, branches: int = 2):
    """The request, its lines of the log, and what each call gave and would give densely."""
    said: list[str] = []
    request = ServedRequest(settings, steps, "a server", said.append)
    found = {}
    for step in range(steps):
        for branch in range(branches):
            q, k, v = naive.qkv(tokens=BEFORE + VIDEO, seed=branch)
            plain = naive.attend(q, k, v)[0].float().transpose(1, 2)
            call = {"layer": 0, "step": step, "layout": Layout(before=BEFORE)}
            out = request.attend(*(x.transpose(1, 2) for x in (q, k, v)), lambda plain=plain: plain, **call)
            found[step, branch] = out, plain
    return request, said, found


def test_steps_branches_and_rows_are_told_apart():
    request, said, found = served(6)
    assert [*request.state.record.step_kinds.values()] == [CONFIG.resolve(6).schedule.kind(step) for step in range(6)]
    assert {pattern.step for pattern in request.state.record.patterns} == {2, 4}
    assert len(request.state.record.patterns) == 4, "each branch has its own"
    for (step, _), (out, plain) in found.items():
        kept = slice(None) if step < 3 else slice(0, BEFORE)
        torch.testing.assert_close(out[:, kept], plain[:, kept], rtol=1e-4, atol=1e-5)
    assert not torch.equal(found[5, 0][0], found[5, 0][1])
    assert request.is_over_at(0) and not request.is_over_at(5)
    request.went_past("a reason")
    request.went_past("a reason")
    request.end()
    assert [line for line in said if "stays dense: a reason" in line] == [said[0]]
    assert said[-1].startswith("AdaSpa: 2 dense, 2 search, 2 sparse steps; attention work 0.")
    assert said[-1].endswith("fell back: 2 calls past it: a reason")
    assert request.state.cache.nbytes == 0


def test_a_servers_words_for_sparsity_make_the_schedule():
    settings = ServerSettings(0.7, first_steps=3, last_steps=2, dense_layers=(1,))
    assert settings.resolve(20).schedule == Schedule((3, 10), warmup=3, dense_from=18)
    assert ServerSettings(0.8).resolve(50).schedule == Schedule((10, 30), warmup=10)
    assert ServerSettings(0.8, first_steps=8).resolve(8).schedule.kind(7) is StepKind.DENSE


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"sparsity": 2}', "ADASPA_CONFIG: sparsity must be"),
        ('{"preset": "best"}', "ADASPA_CONFIG: preset must be one of"),
        ('{"preset": ["fast"]}', "ADASPA_CONFIG: preset must be one of"),
        ('{"selection": {}}', "ADASPA_CONFIG: selection must be one of"),
        ('{"sparse": 1}', "ADASPA_CONFIG: .*sparse"),
        ("{", "ADASPA_CONFIG must be a JSON object"),
        ("[1]", "ADASPA_CONFIG must be a JSON object, got list"),
    ],
)
def test_a_bad_variable_is_refused_by_name(text, told, monkeypatch):
    monkeypatch.setenv("ADASPA_CONFIG", text)
    with pytest.raises(ValueError, match=told):
        from_environment()


def test_the_variable_takes_a_preset_and_changes(monkeypatch):
    monkeypatch.setenv("ADASPA_CONFIG", json.dumps({"preset": "fast", "dense_layers": [0]}))
    assert from_environment() == AdaSpaConfig.preset("fast", dense_layers=(0,))
    monkeypatch.setenv("ADASPA_CONFIG", "")
    assert from_environment() is None
