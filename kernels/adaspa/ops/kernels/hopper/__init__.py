"""The operations for Hopper GPUs, in Gluon: one warp loads tiles by TMA while two warpgroups compute.

The Triton kernels beside this package do the same anywhere; on Hopper their softmax and their matrix products wait for
each other. Here each warpgroup starts its next matrix product before the softmax of the present one, and the two
warpgroups fill each other's gaps (the schedule of FlashAttention-3, arXiv 2407.08608, section 3).
"""
