"""What holds for every test."""

import torch

# The tensors of the tests are small: a second thread costs more than it does, above all beside another busy process.
torch.set_num_threads(1)
