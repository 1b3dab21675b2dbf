// What a user could pick instead of inv-opt, written in C++ after the Python
// libraries, operation for operation, so that one program can time them all.
// Each takes the blocks of an original network and the chain's input, and
// returns the chain's output.
#pragma once

#include "Net.h"

namespace inv::bench {

/// The module as it is; autograd keeps what it keeps.
at::Tensor plain(const std::vector<Block>& blocks, at::Tensor x);

/// torch.utils.checkpoint, reentrant, around each block: keeps the block's
/// input, runs the block again in backward.
at::Tensor checkpointed(const std::vector<Block>& blocks, at::Tensor x);

/// MemCNN 1.5 (memcnn/models/revop.py, InvertibleCheckpointFunction around
/// AdditiveCoupling): one function per block that frees the storage of its
/// input; backward runs the inverse without gradient, then the whole forward
/// again with gradient. Three evaluations of each branch.
/// REQUIRES: couplings.
at::Tensor memcnn(const std::vector<Block>& blocks, at::Tensor x);

/// RevTorch 0.2 (revtorch/revtorch.py): one function for the whole chain;
/// backward undoes block by block while it takes the gradients. Two evaluations
/// of each branch. REQUIRES: couplings.
at::Tensor revtorch(const std::vector<Block>& blocks, at::Tensor x);

/// InvTorch 0.5's checkpoint around a layer whose inverse is written with
/// torch.pinverse: frees the input's storage; backward computes the
/// pseudo-inverse, undoes the layer, and runs it again with gradient.
/// REQUIRES: blocks of `linear` and a leaky ReLU of slope 0.5.
at::Tensor pinverse(const std::vector<Block>& blocks, at::Tensor x);

} // namespace inv::bench
