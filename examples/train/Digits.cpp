#include "Digits.h"

#include <cstring>
#include <fstream>
#include <iterator>
#include <numeric>
#include <random>
#include <stdexcept>
#include <utility>

#include <ATen/ATen.h>

namespace inv::train {
namespace {

constexpr char kMagic[] = "INVDIG01";
constexpr size_t kHeader = 24;

uint32_t readWord(const std::string& bytes, size_t at) {
  uint32_t word = 0;
  for (size_t i = 0; i < 4; ++i)
    word |= static_cast<uint32_t>(static_cast<uint8_t>(bytes[at + i]))
            << (8 * i);
  return word;
}

std::string readFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file)
    throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

} // namespace

Digits loadDigits(const std::string& path, at::ScalarType dtype) {
  std::string bytes = readFile(path);
  if (bytes.size() < kHeader || bytes.compare(0, 8, kMagic) != 0)
    throw std::runtime_error(path + " is not a file of digits");
  const int64_t train = readWord(bytes, 8), test = readWord(bytes, 12);
  const int64_t height = readWord(bytes, 16), width = readWord(bytes, 20);
  const int64_t images = train + test, pixels = images * height * width;
  if (static_cast<int64_t>(bytes.size() - kHeader) != pixels + images)
    throw std::runtime_error(path + " has the wrong length");

  char* data = bytes.data() + kHeader;
  auto x = at::from_blob(data, {images, 1, height, width}, at::kByte).to(dtype);
  auto labels = at::from_blob(data + pixels, {images}, at::kByte).to(at::kLong);
  const auto trainPixels = x.narrow(0, 0, train);
  x = (x - trainPixels.mean()) / trainPixels.std();
  return {x.narrow(0, 0, train), labels.narrow(0, 0, train),
          x.narrow(0, train, test), labels.narrow(0, train, test)};
}

std::vector<at::Tensor> batchesOfEpoch(int64_t images, int64_t batch,
                                       uint64_t seed, int epoch) {
  std::vector<int64_t> order(static_cast<size_t>(images));
  std::iota(order.begin(), order.end(), 0);
  std::mt19937_64 random(seed * 1000003 + static_cast<uint64_t>(epoch));
  for (size_t i = order.size(); i > 1; --i) // the same on every platform
    std::swap(order[i - 1], order[random() % i]);
  std::vector<at::Tensor> batches;
  for (int64_t at = 0; at + batch <= images; at += batch)
    batches.push_back(
        at::from_blob(order.data() + at, {batch}, at::kLong).clone());
  return batches;
}

} // namespace inv::train
