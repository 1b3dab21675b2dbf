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
  /// A tensor of the graph, not an activation, that is not 0 (or, if `zero`, is
  /// 0) where its elements are meant.
  struct Factor {
    torch::jit::Value* tensor = nullptr;
    bool zero = false;
  };
  enum class Kind {
    Slice, ///< start, start + step, ... below end, along dim
    Index, ///< `places` along dim
    Mask,  ///< where `mask` is true
  };
  struct Term {
    Kind kind = Kind::Slice;
    int64_t dim = 0;
    int64_t start = 0, end = 0,
            step = 1;            ///< Slice; 0 <= start, end may be open
    std::vector<int64_t> places; ///< Index; none negative
    torch::jit::Value* indices = nullptr; ///< Index: the graph's value of them
    at::Tensor mask;             ///< Mask: bool, broadcast to the tensor
    std::vector<Factor> factors; ///< Mask: it is true where all of these hold
    /// Slice, Index: all places but these.
    bool inverted = false;
    /// Index: nothing else is read of the tensor, so that 0, 1, 2, ... are all
    /// of its places, and not the first ones of more.
    bool alone = false;

    bool operator==(const Term& other) const;
  };
  /// All elements that are in one of these; none: every element.
  std::vector<Term> terms;
  /// What gives the part gives these elements alone, as the slice or the
  /// indices do. Otherwise it gives a tensor of all elements, of which the
  /// others may be anything.
  bool compact = false;

  static Elements slice(int64_t dim, int64_t start, int64_t end, int64_t step);
  static Elements index(int64_t dim, std::vector<int64_t> places,
                        torch::jit::Value* indices);
  static Elements masked(at::Tensor mask, Factor factor);

  bool isWhole() const { return terms.empty(); }
  /// All masks.
  bool isMasked() const;
  bool operator==(const Elements& other) const { return terms == other.terms; }
};

/// The elements that are not in `e`; nothing where it takes more than one term
/// to say.
std::optional<Elements> complement(const Elements& e);

/// True if no element is in both, as far as can be told.
bool disjoint(const Elements& a, const Elements& b);

/// True if each element of `inner` is in `outer`, as far as can be told.
bool contains(const Elements& outer, const Elements& inner);

/// The elements in both, given as a tensor of all; nothing where the two are of
/// different kinds that this does not bring together, or of masks that do not
/// broadcast.
std::optional<Elements> intersection(const Elements& a, const Elements& b);

/// The elements in any of the sets, given as a tensor of all.
Elements united(const std::vector<Elements>& sets);

/// True if the sets together hold every element of the tensor: of any size for
/// masks and for slices of which some are open, of size `sizeImplied` along
/// `dim` where that is not enough (x[:, :2], x[:, 2:4]; indices). One slice,
/// and one ascending set of indices, is taken for a choice out of more, unless
/// the indices are `alone`.
bool covers(const std::vector<Elements>& sets);

/// The least size along `dim` of a tensor that has all of these elements; 0
/// where the set does not say.
int64_t leastSize(const Elements& e);

/// The size along `dim` for which the sets cover a tensor; nothing where they
/// cover it for every size. REQUIRES: covers(sets).
std::optional<int64_t> sizeImplied(const std::vector<Elements>& sets);

} // namespace inv::opt
