// What the runtime must be able to do with a step, whoever wrote it.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <memory>
#include <string>
#include <vector>

namespace inv {

using Tensors = std::vector<at::Tensor>;
using Extras = std::vector<c10::IValue>;

enum class StepKind { Coupling, Bijection, Checkpoint };
enum class Mode { Invert, Recompute, Store };
/// What is known about a step's function (see abi::kArithmetic).
enum class Arithmetic { General, ScaledSum, Linear };

/// "inv::coupling" and so on, for messages.
const char* opName(StepKind kind);

inline constexpr double kDefaultMaxGrowth = 32;

/// The constants of a step's class.
struct StepLayout {
  int64_t numStates = 0, numAux = 0, numSides = 0;
  Arithmetic arithmetic = Arithmetic::General;
  double xScale = 1, auxScale = 1, constantGrowth = 1;
  bool resizes = false;
  /// Captures and extras that function and inverse take; all where `...All`.
  std::vector<int64_t> functionCaptures, functionExtras;
  bool functionCapturesAll = true, functionExtrasAll = true;
  /// Captures that the step writes; see Record::saveCaptures.
  std::vector<int64_t> scratch;

  bool isScratch(size_t capture) const;
};

/// How many of each a call of a step passes.
struct CallShape {
  StepKind kind;
  size_t x, z, captures;
};

/// One step: its code and its switches. Immutable but for the switches, so one
/// object may be used by several threads at once. The methods run under the
/// caller's grad mode, autocast state and generators, and never write to a
/// tensor except to scratch captures.
class StepFunctions {
public:
  virtual ~StepFunctions() = default;

  virtual const StepLayout& layout() const = 0;
  /// aux (numAux of them), then sides (numSides).
  virtual Tensors runConditioner(Tensors z, Tensors captures,
                                 const Extras& extras) const = 0;
  /// y (numStates of them). The captures and extras are those meant for the
  /// function.
  virtual Tensors runFunction(Tensors x, Tensors aux, Tensors captures,
                              const Extras& extras) const = 0;
  /// The x of which y = function(x, aux, captures, extras).
  virtual Tensors runInverse(Tensors y, Tensors aux, Tensors captures,
                             const Extras& extras) const = 0;

  /// By how much runInverse enlarges errors, at most, for these values: 1 or
  /// more, perhaps infinity. Costs a device synchronisation unless it is
  /// constant.
  virtual bool growthIsConstant() const { return true; }
  virtual double growth(Tensors y, Tensors aux, Tensors captures,
                        const Extras& extras) const;

  /// See abi::kMaxGrowth.
  virtual double maxGrowth() const { return kDefaultMaxGrowth; }
  /// May capture number `i`, a scratch one, influence what the step computes?
  /// False for running statistics that it only updates.
  virtual bool readsScratch(const CallShape& call, size_t i,
                            const Extras& extras) const = 0;
  /// The operator (or such) of a discrete choice of the conditioner that state
  /// z number `i` influences, which it must know to the last bit; empty if
  /// there is none. `captures`, `extras`: those of the call.
  virtual std::string choiceAtZ(const CallShape& call, size_t i,
                                const Tensors& captures,
                                const Extras& extras) const = 0;
  /// The same for the function and x number `i`. `extras`: those meant for the
  /// function.
  virtual std::string choiceAtX(const CallShape& call, size_t i,
                                const Tensors& captures,
                                const Extras& extras) const = 0;
  /// The values, if any, of which it matters to the conditioner whether an
  /// element of state z number `i` is exactly that.
  virtual const std::vector<double>& tiesAtZ(size_t i) const = 0;
  /// The same for the function and x number `i`.
  virtual const std::vector<double>& tiesAtX(size_t i) const = 0;
  /// Why the methods can only be run as they are, by plain autograd: a
  /// sentence, or empty.
  virtual std::string whyNotReplayed() const = 0;
  /// A sentence about what the methods do that no step may do, such as writing
  /// a capture that is not scratch; empty if there is none.
  virtual std::string whatIsWrong(const CallShape& call) const = 0;
  /// The name that the code has for capture number `i`, such as up_weight; may
  /// be empty.
  virtual std::string captureName(const CallShape& call, size_t i) const = 0;
  /// May a run draw random numbers? It was seen doing so, or looks like it.
  virtual bool mayDraw() const = 0;
  virtual void noteDrew() const = 0;

  virtual Mode mode() const = 0;
  virtual bool preserveRng() const = 0;
  /// Where the step came from, for messages; may be empty.
  virtual std::string origin() const = 0;
};

/// The step behind a TorchScript object made by the pass. REQUIRES: `object`
/// is one, else the user gets an error that says what is missing.
std::shared_ptr<const StepFunctions> scriptStep(StepKind kind,
                                                const c10::IValue& object);

/// "inv::coupling (blocks.3: net.py:41)", the subject of every message.
std::string describe(StepKind kind, const StepFunctions& step);

} // namespace inv
