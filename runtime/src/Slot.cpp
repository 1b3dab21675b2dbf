#include "Slot.h"

#include "Streams.h"

#include <ATen/ExpandUtils.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_strided.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>

namespace inv {

Slot::Slot(const at::Tensor& t)
    : storage_(t.storage().getWeakStorageImpl()), sizes_(t.sizes().vec()),
      strides_(t.strides().vec()), offset_(t.storage_offset()),
      dtype_(t.scalar_type()), version_(static_cast<uint32_t>(t._version())) {}

Slot::~Slot() { release(std::move(rebuild_)); }

bool Slot::standsFor(const at::Tensor& t) const {
  return storage_._unsafe_get_target() == t.storage().unsafeGetStorageImpl() &&
         static_cast<uint32_t>(t._version()) == version_ &&
         t.sizes() == sizes_ && t.strides() == strides_ &&
         t.storage_offset() == offset_ && t.scalar_type() == dtype_;
}

bool Slot::isConsumed() const {
  std::lock_guard lock(mutex_);
  return rebuild_ != nullptr;
}

void Slot::set(const at::Tensor& t) {
  value_ = t.detach();
  valueVersion_ = static_cast<uint32_t>(t._version());
  stream_ = currentStream(t);
}

void Slot::hold(const at::Tensor& t) {
  std::lock_guard lock(mutex_);
  if (!value_.defined() && !rebuild_)
    set(t);
}

void Slot::wantTies(const std::vector<double>& values) {
  std::lock_guard lock(mutex_);
  for (double value : values)
    if (std::find(tieValues_.begin(), tieValues_.end(), value) ==
        tieValues_.end())
      tieValues_.push_back(value);
}

void Slot::findTiesLocked(const at::Tensor& state) {
  if (rebuild_ || tiesFound_ == tieValues_.size())
    return;
  // A GPU is not waited for: a graph that is being captured could not.
  ties_ = Ties(state, tieValues_, /*mayWait=*/state.is_cpu());
  tiesFound_ = tieValues_.size();
}

void Slot::findTies(const at::Tensor& state) {
  std::lock_guard lock(mutex_);
  findTiesLocked(state);
}

void Slot::handOver(const RecordPtr& by, size_t index,
                    const at::Tensor& state) {
  std::lock_guard lock(mutex_);
  if (rebuild_)
    return;
  findTiesLocked(state);
  rebuild_ = by;
  index_ = index;
  value_.reset();
}

Slot::Content Slot::get(const Record& neededBy) const {
  std::lock_guard lock(mutex_);
  if (!value_.defined()) {
    TORCH_CHECK(rebuild_, torch::autograd::ERR_BACKWARD_TWICE, " [",
                describe(neededBy.kind, *neededBy.step), "]");
    return {at::Tensor(), rebuild_, index_};
  }
  TORCH_CHECK(static_cast<uint32_t>(value_._version()) == valueVersion_,
              describe(neededBy.kind, *neededBy.step), ": ",
              neededBy.nameOf(*this),
              ", which this step needs for its gradient, has been modified by "
              "an inplace operation after the forward: it is at version ",
              value_._version(), "; expected version ", valueVersion_);
  if (stream_)
    useHere(value_, *stream_);
  return {value_, nullptr, 0};
}

void Slot::putRebuilt(const at::Tensor& t) {
  std::lock_guard lock(mutex_);
  if (!value_.defined())
    set(t);
}

void Slot::dropRebuilt() {
  std::lock_guard lock(mutex_);
  if (rebuild_)
    value_.reset();
}

void Slot::forget(const Record* record) {
  RecordPtr dead;
  std::lock_guard lock(mutex_);
  if (rebuild_.get() == record)
    dead = std::move(rebuild_);
}

void Slot::drop() {
  std::lock_guard lock(mutex_);
  value_.reset();
}

at::Tensor Slot::asItWas(at::Tensor t) const {
  if (t.strides() != strides_ && t.numel() != 0) {
    const auto dense = at::infer_dense_strides(sizes_, strides_);
    if (t.strides() != dense)
      t = at::empty_strided(sizes_, dense, t.options()).copy_(t);
  }
  return ties_.reimpose(std::move(t));
}

// -------------------------------------------------------------------- records

Record::~Record() {
  for (auto* slots : {&y, &sides, &z, &passed})
    for (SlotPtr& s : *slots)
      release(std::move(s));
}

void Record::saveScratch(const Tensors& captures,
                         const std::function<bool(size_t)>& reads) {
  scratch_.resize(captures.size());
  at::NoGradGuard noGrad;
  for (size_t i = 0; i < captures.size(); i++)
    if (step->layout().isScratch(i))
      scratch_[i] = reads(i) ? captures[i].clone() : captures[i].detach();
}

void Record::saveCaptures(const Tensors& captures) {
  for (size_t i = 0; i < captures.size(); i++) {
    if (scratch_[i].defined()) {
      saved_.emplace_back();
    } else {
      // Without its history, which the node's edges have: through it a state
      // that a later step consumed would come to own that step's record.
      saved_.emplace_back(captures[i].detach(), /*is_output=*/false);
    }
  }
}

Tensors Record::captures() const {
  Tensors result;
  for (size_t i = 0; i < saved_.size(); i++) {
    if (scratch_[i].defined()) {
      at::NoGradGuard noGrad;
      result.push_back(scratch_[i].clone());
      continue;
    }
    try {
      result.push_back(saved_[i].unpack());
    } catch (c10::Error& e) {
      const std::string name =
          step->captureName({kind, numX, z.size(), saved_.size()}, i);
      e.add_context("in " + describe(kind, *step) + ", capture " +
                    std::to_string(i) +
                    (name.empty() ? name : " ('" + name + "')"));
      throw;
    }
  }
  return result;
}

Tensors Record::functionCaptures(const Tensors& captures) const {
  const StepLayout& layout = step->layout();
  if (kind == StepKind::Bijection || layout.functionCapturesAll)
    return captures;
  Tensors result;
  for (int64_t i : layout.functionCaptures)
    result.push_back(captures[static_cast<size_t>(i)]); // checked in forward
  return result;
}

std::string Record::nameOf(const Slot& slot) const {
  const auto placeIn = [&](const std::vector<SlotPtr>& slots) {
    return std::find_if(slots.begin(), slots.end(),
                        [&](const SlotPtr& s) { return s.get() == &slot; }) -
           slots.begin();
  };
  if (const auto i = placeIn(y); i < std::ssize(y))
    return "its result number " + std::to_string(i);
  if (const auto i = placeIn(z); i < std::ssize(z))
    return "the state number " + std::to_string(i) + " that it read";
  return "a state that it was given";
}

const SlotPtr& Record::output(size_t i) const {
  if (i < y.size())
    return y[i];
  i -= y.size();
  return i < sides.size() ? sides[i] : passed.at(i - sides.size());
}

// --------------------------------------------------------------- destruction

namespace {

/// Parks what could start a recursive destruction, and frees it in a loop.
template <class T> void park(std::shared_ptr<T> p) {
  static thread_local std::vector<std::shared_ptr<void>>* parked = nullptr;
  if (!p)
    return;
  if (parked) {
    parked->push_back(std::move(p));
    return;
  }
  std::vector<std::shared_ptr<void>> list;
  parked = &list;
  list.push_back(std::move(p));
  while (!list.empty()) {
    auto next = std::move(list.back());
    list.pop_back();
    next.reset();
  }
  parked = nullptr;
}

} // namespace

// One list per thread for both kinds, or they would recurse through each other.
void release(SlotPtr p) { park<void>(std::move(p)); }
void release(RecordPtr p) { park<void>(std::move(p)); }

} // namespace inv
