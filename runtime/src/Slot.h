// Slots and records: who keeps which state until backward. docs/runtime.md
// draws them.
#pragma once

#include "Replay.h"
#include "Stats.h"
#include "StepFunctions.h"
#include "Ties.h"

#include <c10/core/StorageImpl.h>
#include <c10/core/Stream.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

namespace inv {

class Slot;
struct Record;
using SlotPtr = std::shared_ptr<Slot>;
using RecordPtr = std::shared_ptr<Record>;

/// One state of a chain. It holds the state's value; or the record of the step
/// that consumed the state, which can rebuild it; or, while nobody needs it,
/// neither (`vacant`).
///
/// Thread-safe. The lock is never held while user code runs.
class Slot : Counted<&Counters::liveSlots> {
public:
  /// A vacant slot for the state that `t` is now.
  explicit Slot(const at::Tensor& t);
  ~Slot();

  /// Is `t` the tensor that this slot stands for, unchanged?
  bool standsFor(const at::Tensor& t) const;
  bool isConsumed() const;

  /// Keeps `t`, unless the slot has a value or a record already.
  void hold(const at::Tensor& t);
  /// Hand-over: `by` consumes the state as its x number `index` and can rebuild
  /// it; the value, which is `state`, is dropped. Does nothing if another step
  /// did so before.
  void handOver(const RecordPtr& by, size_t index, const at::Tensor& state);

  struct Content {
    at::Tensor value;  ///< defined, or
    RecordPtr rebuild; ///< the record that can rebuild it
    size_t index = 0;  ///< ... as this x
  };
  /// What the slot holds. Throws, naming the step that needs it, if the value
  /// was changed in place since, or if it was released (a backward without
  /// retain_graph went by).
  Content get(const Record& neededBy) const;

  /// Keeps a rebuilt value, unless there is one.
  void putRebuilt(const at::Tensor& t);
  /// Drops the value if it can be rebuilt.
  void dropRebuilt();
  /// `record` has had its backward: the slot no longer refers to it.
  void forget(const Record* record);
  /// Drops the value of a state that nobody can ask for any more.
  void drop();

  /// By how much undoing the steps from the last kept state of the chain to
  /// this one may enlarge an error; 1 for a state that is kept itself.
  double growth() const { return growth_; }
  /// REQUIRES: nobody else knows the slot yet.
  void setGrowth(double growth) { growth_ = growth; }

  c10::IntArrayRef sizes() const { return sizes_; }
  /// A step that reads the state says that it matters to it which elements are
  /// exactly these values: the hand-over notes where they are.
  void wantTies(const std::vector<double>& values);
  /// Does the hand-over's work on those of `state` ahead of it.
  void findTies(const at::Tensor& state);

  /// `t`, this state's values rebuilt, as the state was: its dimensions in the
  /// same order in memory, without the holes that a piece of a larger tensor
  /// has (what reads it may compute other bits in another order); and exact
  /// ties where they were, if they matter to somebody.
  at::Tensor asItWas(at::Tensor t) const;

  /// Undoes a sum: sees to it that the slot has a value if `wanted`, computed
  /// by `undo`, and forgets `record` if it is `over`. Before, if `record` is
  /// reachable from nowhere but `owners` pointers and this slot, `lastUse` is
  /// called, while nobody can come to reach it. Neither function may run user
  /// code.
  template <class LastUse, class Undo>
  void undo(const RecordPtr& record, bool over, bool wanted, long owners,
            LastUse lastUse, Undo undo);

private:
  void set(const at::Tensor& t);
  void findTiesLocked(const at::Tensor& state);

  mutable std::mutex mutex_; // guards the members up to the blank line
  at::Tensor value_;
  uint32_t valueVersion_ = 0;
  std::optional<c10::Stream> stream_; // of an accelerator, that made value_
  RecordPtr rebuild_;
  size_t index_ = 0;
  std::vector<double> tieValues_; // that somebody wants to know the places of,
  size_t tiesFound_ = 0;          // and how many of them ties_ knows
  Ties ties_;

  double growth_ = 1; // set before anybody else sees the slot

  // Identity of the forward tensor; the weak reference only keeps the address
  // from being used again.
  c10::weak_intrusive_ptr<c10::StorageImpl> storage_;
  std::vector<int64_t> sizes_, strides_;
  int64_t offset_;
  at::ScalarType dtype_;
  uint32_t version_;
};

/// What one executed step needs in backward. Refers to slots, slots refer to
/// records; neither refers to autograd nodes, or a graph would own itself.
struct Record : Counted<&Counters::liveRecords> {
  Record(StepKind k, std::shared_ptr<const StepFunctions> s)
      : kind(k), step(std::move(s)) {}
  ~Record();

  StepKind kind;
  std::shared_ptr<const StepFunctions> step;
  size_t numX = 0;
  std::vector<SlotPtr> y, sides, z;
  /// The slots that the passed-through z stand for: those of z, unless the step
  /// has copies of its own there.
  std::vector<SlotPtr> passed;
  Extras extras, functionExtras;
  Replay replay;
  /// Which of x..., z..., captures... had a gradient to get in the forward. A
  /// replay's copies say the same, since ATen looks at it when it picks a
  /// kernel.
  std::vector<bool> needsGrad;

  /// Copies of the scratch captures whose values the step may read, from before
  /// the forward writes them. `reads` tells which.
  void saveScratch(const Tensors& captures,
                   const std::function<bool(size_t)>& reads);
  /// Saves the other captures. A scratch capture that is only written, such as
  /// the statistics of batch norm in training, is saved as it is: a replay gets
  /// a copy of whatever it is then, and nobody checks its version.
  void saveCaptures(const Tensors& captures);
  /// The captures as they were saved, scratch ones as fresh copies. Throws an
  /// error that names the step if one was changed in place since.
  Tensors captures() const;
  size_t numCaptures() const { return saved_.size(); }
  bool isScratch(size_t capture) const { return scratch_[capture].defined(); }
  /// Those of `captures` that function and inverse take.
  Tensors functionCaptures(const Tensors& captures) const;

  /// What the step would call that state, in an error.
  std::string nameOf(const Slot& slot) const;
  /// Slot of output number `i` of the step's node.
  const SlotPtr& output(size_t i) const;

private:
  std::vector<torch::autograd::SavedVariable> saved_;
  std::vector<at::Tensor> scratch_; // defined where the layout says so
};

template <class LastUse, class Undo>
void Slot::undo(const RecordPtr& record, bool over, bool wanted, long owners,
                LastUse lastUse, Undo undo) {
  RecordPtr dead; // dies after the lock
  std::lock_guard lock(mutex_);
  const bool mine = rebuild_ == record;
  if (over && record.use_count() == owners + (mine ? 1 : 0))
    lastUse();
  if (wanted && !value_.defined())
    set(undo());
  if (over && mine && (value_.defined() || !wanted))
    dead = std::move(rebuild_);
}

/// Lets go of `p` without recursion: a chain of slots and records is as long as
/// the model is deep.
void release(SlotPtr p);
void release(RecordPtr p);

/// The values of `wanted`, undoing later steps where they were handed over:
/// every step needed once, in post-order, each state dropped after its last
/// use. No recursion. Runs user code without grad mode; the caller holds no
/// slot's lock.
Tensors pull(const std::vector<SlotPtr>& wanted, const Record& neededBy);

} // namespace inv
