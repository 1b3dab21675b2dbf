// Sets of a tensor's elements. A rule may give back a part of its operand: the
// even columns, the elements that a mask selects. The operand is known once the
// parts together cover it (docs/analysis.md, "Knowledge in pieces").
//
// Sizes are not known when a model is analysed. Whether parts cover a tensor is
// therefore decided for every size at once where that can be (slices), or for
// the one size that the parts imply (constant indices, see `sizeImplied`); the
// step compares that size in forward.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

namespace torch::jit {
struct Value;
} // namespace torch::jit

namespace inv::opt {

struct Elements {
  enum class Kind {
    Whole, ///< all elements
    Slice, ///< start, start + step, ... below end, along dim
    Index, ///< `places` along dim
    Mask,  ///< where `mask` is true
  };
  Kind kind = Kind::Whole;
  int64_t dim = 0;
  int64_t start = 0, end = 0, step = 1; ///< Slice; 0 <= start, end may be open
  std::vector<int64_t> places;          ///< Index; none negative
  torch::jit::Value* indices = nullptr; ///< Index: the graph's value of them
  at::Tensor mask;                      ///< Mask: bool, broadcast to the tensor
  /// A tensor of the graph, not an activation, that is not 0 (or, if `zero`, is
  /// 0) where its elements are meant.
  struct Factor {
    torch::jit::Value* tensor = nullptr;
    bool zero = false;
  };
  std::vector<Factor> factors; ///< Mask: it is true where all of these hold

  static Elements slice(int64_t dim, int64_t start, int64_t end, int64_t step);
  static Elements index(int64_t dim, std::vector<int64_t> places,
                        torch::jit::Value* indices);
  static Elements masked(at::Tensor mask, Factor factor);

  bool isWhole() const { return kind == Kind::Whole; }
  bool operator==(const Elements& other) const;
};

/// True if no element is in both.
bool disjoint(const Elements& a, const Elements& b);

/// The elements in both; nothing where the two are of different kinds that this
/// does not bring together, or of masks that do not broadcast.
std::optional<Elements> intersection(const Elements& a, const Elements& b);

/// True if the sets together hold every element of the tensor: of any size for
/// slices and masks, of size `sizeImplied` along `dim` for indices (one
/// ascending set of which is taken for a choice out of more).
bool covers(const std::vector<Elements>& sets);

/// The size along `dim` for which indices that cover a tensor do so; nothing
/// for the other kinds. REQUIRES: covers(sets).
std::optional<int64_t> sizeImplied(const std::vector<Elements>& sets);

} // namespace inv::opt
