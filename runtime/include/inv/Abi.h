// The contract between the compiler (passes/) and the runtime (runtime/): the
// names and meanings of everything that inv-opt writes into an archive and
// libinv_runtime.so reads back. The only header that both sides include; it
// includes nothing itself. Whoever changes it changes both sides, raises
// kVersion, and adds the old version to kOldestSupported's range or drops it.
#pragma once

#include <cstdint>

namespace inv::abi {

/// Version of this contract. Archives call the operator whose name holds the
/// version they were written for as the first statement of every rewritten
/// method, `inv::needs_libinv_runtime_abi_<N>() -> ()`. The runtime registers
/// one such operator for each version it supports, so that loading an archive
/// without the library, or with one too old or too new, fails with a message
/// ("Unknown builtin op: inv::needs_libinv_runtime_abi_2") that says what is
/// missing. Version 2 added kGrowth, kConstantGrowth and kMaxGrowth, which an
/// older runtime would not heed; archives of version 1 have none of them.
inline constexpr int64_t kVersion = 2;
inline constexpr int64_t kOldestSupported = 1;
inline constexpr const char* kNeedsPrefix = "inv::needs_libinv_runtime_abi_";

// ---------------------------------------------------------------- operators
// A step operator takes the step object (a TorchScript submodule made by the
// pass) first. Outputs of a step operator, in order:
//   y...     the states that the step made (constant kNumStates of the class)
//   side...  further results of the conditioner (a log-determinant, a
//            statistic, ...; constant kNumSides)
//   z...     the states that the step only read, passed through, so that each
//            state of a chain has a step behind it
//
// The passed-through z are new tensors on the same memory. Later steps take
// them, and not z itself; a gradient that is asked of one of them is that of
// its later uses, without what this step does with it. The gradient of all uses
// is that of the tensor z that the step was given, which is what inv-opt hands
// to the caller of a rewritten model. Whoever calls an operator by hand must do
// the same, and must change neither of the two in place.
//
/// coupling(Any step, Tensor[] x, Tensor[] z, Tensor[] captures, Any extras)
///     -> Tensor[]
/// aux, side = conditioner(z, captures, extras);  y = function(x, aux).
/// Undone by x = inverse(y, aux).
inline constexpr const char* kCoupling = "inv::coupling";
/// bijection(Any step, Tensor[] x, Tensor[] captures, Any extras) -> Tensor[]
/// y = function(x, captures, extras); x = inverse(y, captures, extras). No
/// conditioner; also the form of a module that the user annotated with an
/// `inverse`.
inline constexpr const char* kBijection = "inv::bijection";
/// checkpoint(Any step, Tensor[] z, Tensor[] captures, Any extras) -> Tensor[]
/// side = conditioner(z, captures, extras). Nothing is undone: the states are
/// there anyway (another step rebuilds them, or somebody holds them), and
/// running the conditioner again frees what it would have saved.
inline constexpr const char* kCheckpoint = "inv::checkpoint";
/// resplit(Tensor[] parts, int parts_dim, str how, int[] args, int dim)
///     -> Tensor[]
/// What `split(cat(parts, parts_dim), ..., dim)` gives, without the copy where
/// the pieces are the parts themselves (then it returns the very tensors).
/// `how` names the ATen operator: "chunk" (args: [chunks]), "split" (args:
/// [split_size]), "split_with_sizes" (args: sizes), "tensor_split" (args:
/// indices), "tensor_split_sections" (args: [sections]). Differentiable.
/// The parts are returned only where each is contiguous in the memory format
/// that the concatenation would have, or a piece of such a tensor; a part in
/// another order of strides would hand that order on to what is computed from
/// it.
inline constexpr const char* kResplit = "inv::resplit";
inline constexpr const char* kTensorSplitSections = "tensor_split_sections";
/// as_piece(Tensor part, int dim, int offset, int total) -> Tensor
/// The values of `part` in the strides, and at the offset, of
/// `full.narrow(dim, offset, part.size(dim))` where `full` has `total` elements
/// along `dim` and is otherwise of part's sizes, contiguous in part's memory
/// format. One copy. ATen picks other code for other strides, and this keeps
/// the forward result bit-identical. Differentiable (the gradient passes
/// unchanged).
inline constexpr const char* kAsPiece = "inv::as_piece";

// ------------------------------------------------------------ a step's class
// Methods; every one takes self first. Elements of the tuple `extras` (ints,
// floats, bools, strings, devices, None, lists of them) are passed one by one,
// behind the tensors. Where kFunctionCaptures/kFunctionExtras are given, only
// the captures/extras with those indices are passed to function and inverse.
//
/// conditioner(self, z..., captures..., extras...) -> Tensor | tuple of Tensor:
/// aux (kNumAux of them), then side outputs (kNumSides).
inline constexpr const char* kConditioner = "conditioner";
/// function(self, x..., aux..., captures..., extras...) -> Tensor | tuple: y
inline constexpr const char* kFunction = "function";
/// inverse(self, y..., aux..., captures..., extras...) -> Tensor | tuple: x
inline constexpr const char* kInverse = "inverse";
/// growth(self, y..., aux..., captures..., extras...) -> Tensor of one number.
/// Optional: the largest factor by which `inverse` may enlarge an error of an
/// element of y, for these values; below 1 counts as 1, 0 or less and NaN as
/// infinity. Evaluated in forward. The runtime multiplies growths along a
/// chain, and keeps a step's x where the product would get too large.
inline constexpr const char* kGrowth = "growth";

// Class constants (`Final`), written by the pass, describing the code:
inline constexpr const char* kNumStates = "num_states"; ///< int: count of y
inline constexpr const char* kNumAux = "num_aux";       ///< int
inline constexpr const char* kNumSides = "num_sides";   ///< int
/// List[int]: captures passed to function and inverse (all of a bijection's).
inline constexpr const char* kFunctionCaptures = "function_captures";
/// List[int]: extras passed to function and inverse (all of a bijection's).
inline constexpr const char* kFunctionExtras = "function_extras";
/// List[int]: captures that the conditioner (or function) writes, such as
/// running statistics: a replay gets a scratch copy, which is dropped.
inline constexpr const char* kScratch = "scratch_captures";
/// str: "scaled_sum" where function is exactly y = x_scale * x + aux_scale *
/// aux with one x, one aux and no captures or extras of its own (the runtime
/// then uses its fused kernels, and no autograd graph for the function);
/// "linear" where function is linear(x, captures[0][, captures[1]]);
/// "" for anything else.
inline constexpr const char* kArithmetic = "arithmetic";
inline constexpr const char* kScaledSum = "scaled_sum";
inline constexpr const char* kLinear = "linear";
inline constexpr const char* kXScale = "x_scale";     ///< float, not 0
inline constexpr const char* kAuxScale = "aux_scale"; ///< float, 1 or -1

/// float: a factor of the growth that does not depend on values (1 if absent).
inline constexpr const char* kConstantGrowth = "constant_growth";

/// By how much undoing y = s * x + f(z) is taken to enlarge errors, where
/// dividing by the constant s enlarges them `factor` times. The error of y is
/// divided by s, and so is what the error of z, which was divided on its way,
/// does to f. By how much f enlarges that nobody knows; where s < 1 lets the
/// states shrink, layer norms make it a lot. So a factor above 1 counts twice:
/// a guess that was measured (docs/hazards.md, row 27), no bound.
inline constexpr int kScaleCounts = 2;
constexpr double growthOfScale(double factor) {
  double growth = factor;
  for (int i = 1; i < kScaleCounts && factor > 1; i++)
    growth *= factor;
  return growth;
}

/// bool: y may have another number of elements than x, none of them a
/// repetition (a padding, a linear layer); false if absent. Otherwise the
/// runtime takes such a y for one to which x was broadcast, and keeps x.
inline constexpr const char* kResizes = "resizes";

// Attributes, which a user may change between iterations; forward reads them,
// backward does what its forward recorded:
inline constexpr const char* kMode = "mode";           ///< str, one of:
inline constexpr const char* kInvert = "invert";       ///< hand x over
inline constexpr const char* kRecompute = "recompute"; ///< keep x, z; run again
inline constexpr const char* kStore = "store";         ///< plain autograd
/// bool: a replay draws the random numbers that the forward drew.
inline constexpr const char* kPreserveRng = "preserve_rng";
/// float: the largest product of growths since a state was kept (see kGrowth)
/// at which this step still hands its x over in float32; 100 times as much in
/// float64. 32 if absent.
inline constexpr const char* kMaxGrowth = "max_growth";
/// str: where the step came from, for error messages ("blocks.3: net.py:41").
inline constexpr const char* kOrigin = "origin";

/// Archive member with the JSON description of what was done (schema in
/// docs/formats.md).
inline constexpr const char* kArchiveMember = "inv_opt.json";
/// Step submodules of the rewritten module are named kStepPrefix + number, and
/// their classes __torch__.inv.Step_<number>.
inline constexpr const char* kStepPrefix = "inv_step_";
inline constexpr const char* kClassPrefix = "__torch__.inv.Step_";

} // namespace inv::abi
