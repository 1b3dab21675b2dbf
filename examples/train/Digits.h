// The data set, and the order in which it is trained on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace inv::train {

/// Images [n, 1, height, width], shifted and scaled so that the training
/// pixels have mean 0 and deviation 1; labels [n], int64.
struct Digits {
  at::Tensor trainImages, trainLabels;
  at::Tensor testImages, testLabels;
};

/// Reads the format that examples/data/digits.py describes. Throws
/// std::runtime_error where the file cannot be read or is something else.
Digits loadDigits(const std::string& path, at::ScalarType dtype);

/// Indices of the batches of an epoch, a function of its arguments alone. All
/// have `batch` images; what is left over at the end is left out.
std::vector<at::Tensor> batchesOfEpoch(int64_t images, int64_t batch,
                                       uint64_t seed, int epoch);

} // namespace inv::train
