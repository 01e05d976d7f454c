"""vLLM-Omni's whole Wan transformer, in one process and by the server's own Ulysses in two.

`vllm_omni_stand_ins` says what is not the server's.
"""

import pytest
import ranks
import torch
from ranks import ALL, ODD_GRID, SPARSE, THEIRS
from whole_model import CLOSE, WholeModel, latents


class TestVLLMOmni(WholeModel):
    program = "vllm_omni_model"

    def test_rows_that_fill_up_a_process_are_left_out(self, alone, two):
        for ran in two:  # the server attends to them, so that its two processes make another video than one
            assert not torch.allclose(latents(ran, THEIRS, ODD_GRID), latents(alone, THEIRS, ODD_GRID), **CLOSE)
            torch.testing.assert_close(latents(ran, ALL, ODD_GRID), latents(alone, THEIRS, ODD_GRID), **CLOSE)
            torch.testing.assert_close(latents(ran, SPARSE, ODD_GRID), latents(alone, SPARSE, ODD_GRID), **CLOSE)
            assert ran[SPARSE, ODD_GRID]["report"]["fell_back"] == []

    @pytest.mark.parametrize("case", [ALL, SPARSE])
    def test_a_process_has_its_rows_of_a_video_beside_text(self, alone, two, case):
        joined, theirs = (torch.cat([latents(ran, of, "text") for ran in two], 2) for of in (case, THEIRS))
        torch.testing.assert_close(joined, latents(alone, case, "text"), **CLOSE)
        torch.testing.assert_close(joined[:, :, : ranks.TEXT], theirs[:, :, : ranks.TEXT], **CLOSE)
        assert (case == ALL) == torch.allclose(joined, theirs, rtol=1e-4, atol=1e-4)
