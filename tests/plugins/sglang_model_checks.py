"""SGLang's whole Wan transformer, in one process and by the server's own Ulysses in two.

`sglang_stand_ins` says what is not the server's.
"""

import pytest
import ranks
import torch
from ranks import ALL, ODD_GRID, SPARSE, THEIRS
from whole_model import CLOSE, WholeModel, latents


class TestSGLang(WholeModel):
    program = "sglang_model"

    def test_rows_that_fill_up_a_process_are_no_video(self, alone, two):
        for ran in two:  # to which the server attends, so that one process makes another video
            torch.testing.assert_close(latents(ran, ALL, ODD_GRID), latents(ran, THEIRS, ODD_GRID), **CLOSE)
            assert ran[SPARSE, ODD_GRID]["report"]["sparse_steps"] == alone[SPARSE, ODD_GRID]["report"]["sparse_steps"]
            assert ran[SPARSE, ODD_GRID]["report"]["fell_back"] == []
            assert torch.equal(latents(two[0], SPARSE, ODD_GRID), latents(ran, SPARSE, ODD_GRID))

    @pytest.mark.parametrize("case", [ALL, SPARSE])
    def test_a_process_has_its_rows_of_a_video_beside_text(self, alone, two, case):
        own = [latents(ran, case, "text") for ran in two]
        theirs = [latents(ran, THEIRS, "text") for ran in two]
        whole = latents(alone, case, "text")
        both = [
            [ran[:, :, : -ranks.TEXT] for ran in found] + [found[0][:, :, -ranks.TEXT :]] for found in (own, theirs)
        ]
        (joined, theirs), is_text = (torch.cat(parts, 2) for parts in both), slice(-ranks.TEXT, None)
        torch.testing.assert_close(own[1][:, :, is_text], own[0][:, :, is_text], **CLOSE)
        torch.testing.assert_close(joined, whole, **CLOSE)
        torch.testing.assert_close(joined[:, :, is_text], theirs[:, :, is_text], **CLOSE)
        assert (case == ALL) == torch.allclose(joined, theirs, rtol=1e-4, atol=1e-4)
