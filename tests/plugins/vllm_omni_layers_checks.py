"""The benchmark of vLLM-Omni's attention layers, in them on a CPU: what it times is what it says.

`vllm_omni_stand_ins` says what is not the server's.
"""

import pytest
import vllm_omni_stand_ins  # noqa: F401 - before the server looks for a platform

from benchmarks.attention import vllm_omni_layers
from benchmarks.attention.served_layer import Case


@pytest.fixture(scope="module", autouse=True)
def started():
    with vllm_omni_layers.started("cpu"):
        yield


@pytest.mark.parametrize("case", [Case("h3", 2, (3, 16, 16), text=5, sound=3), Case("wan", 2, (3, 16, 16))])
def test_each_kind_of_call_of_a_request_is_timed(case):
    row = vllm_omni_layers.measure(case, 0.5, 1, "cpu")
    ms = row["ms"]
    assert set(ms) == {"dense", "default", "with_lse", "first_search", "later_search", "sparse", "library"}
    assert row["density"] == pytest.approx(0.5, abs=0.15)
    assert row["relative_error_at_density_1"] < 0.01
    counted = 9 * ms["dense"] + ms["with_lse"] + ms["first_search"] + ms["later_search"] + 38 * ms["sparse"]
    assert row["ours_s"] == pytest.approx(counted / 1e3, abs=0.002)
