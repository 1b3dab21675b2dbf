// inv_opt::written: a fresh tensor into which pieces are written, as one value.
//
//   written(Tensor[] pieces, Tensor[] indices, int[] places, int[] sizes,
//           int[] strides, int dtype, Device? device, Scalar? fill) -> Tensor
//
//   y = empty_strided(sizes, strides)  (filled with `fill`, where there is one)
//   y[place of piece 0] = piece 0
//   y[place of piece 1] = piece 1      (over what is there)
//   ...
//
// An operator of the compiler's own, for the analysis to see a value where the
// model has a sequence of writes (transforms/GatherWrites). It is lowered to
// those writes again before anything leaves the compiler: no archive holds it.
//
// A place is a path of views, each of four numbers in `places`, behind the
// number of views of the piece:
//   dim, start, end, step     slice (step > 0)
//   dim, index, 0, 0          select
//   dim, number, 0, -1        indices[number] along dim
// Numbers may be constants or values.
#pragma once

#include <vector>

#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

c10::Symbol writtenSymbol();

/// One step of the path to a place.
struct PlaceView {
  enum class Kind { Slice, Select, Index };
  Kind kind = Kind::Slice;
  torch::jit::Value* dim = nullptr;
  torch::jit::Value* start = nullptr; ///< of a select: the index
  torch::jit::Value* end = nullptr;   ///< Slice
  torch::jit::Value* step = nullptr;  ///< Slice
  torch::jit::Value* indices = nullptr;
};

struct WrittenPiece {
  torch::jit::Value* value = nullptr;
  std::vector<PlaceView> place; ///< empty: the whole tensor
};

struct Written {
  std::vector<WrittenPiece> pieces; ///< in the order in which they are written
  torch::jit::Value *sizes = nullptr, *strides = nullptr, *dtype = nullptr,
                    *device = nullptr, *fill = nullptr;
};

/// REQUIRES: node is an inv_opt::written.
Written writtenOf(torch::jit::Node* node);

/// Creates the operator at the insert point of `graph`.
torch::jit::Node* insertWritten(torch::jit::Graph& graph, const Written& w);

/// The view at `place` of `whole`, by aten::slice, select and index, at the
/// insert point; `operand` gives the numbers and indices there.
torch::jit::Value* insertPlace(
    torch::jit::Graph& graph, torch::jit::Value* whole,
    const std::vector<PlaceView>& place,
    const std::function<torch::jit::Value*(torch::jit::Value*)>& operand);

/// Replaces each inv_opt::written of the block, and of the blocks inside, by
/// plain operators. Returns whether there was one.
bool lowerWritten(torch::jit::Block* block);

} // namespace inv::opt
