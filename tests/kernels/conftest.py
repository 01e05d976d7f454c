"""What the tests of the library share."""

import torch

torch.set_num_threads(1)  # the tensors are tiny: more threads only wait for one another
