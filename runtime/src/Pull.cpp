// Pulling: a backward that needs a state whose consumer has not run undoes the
// later steps itself, from the end of the chain (or the nearest held states).
#include "Slot.h"
#include "Undo.h"

#include <unordered_map>

namespace inv {
namespace {

class Puller {
public:
  explicit Puller(const Record& neededBy) : neededBy_(neededBy) {}

  Tensors run(const std::vector<SlotPtr>& wanted) {
    for (const SlotPtr& s : wanted) { // one root at a time: a post-order
      need(s.get(), neededBy_);
      visit();
    }
    for (const RecordPtr& r : order_)
      rebuild(r);
    Tensors result;
    for (const SlotPtr& s : wanted)
      result.push_back(take(s.get()));
    return result;
  }

private:
  /// Registers one use of a state; opens the record that rebuilds it.
  void need(Slot* slot, const Record& by) {
    if (uses_[slot]++)
      return;
    Slot::Content content = slot->get(by);
    if (content.value.defined()) {
      values_[slot] = std::move(content.value);
      return;
    }
    auto& outputs = outputs_[content.rebuild.get()];
    outputs.emplace_back(content.index, slot);
    if (outputs.size() == 1)
      open_.push_back({std::move(content.rebuild), 0});
  }

  /// Works the stack of open records off; each closes after all it reads.
  void visit() {
    while (!open_.empty()) {
      const RecordPtr r = open_.back().first;
      const size_t k = open_.back().second++;
      if (k < r->y.size()) {
        need(r->y[k].get(), *r);
      } else if (k < r->y.size() + r->z.size()) {
        need(r->z[k - r->y.size()].get(), *r);
      } else {
        order_.push_back(r);
        open_.pop_back();
      }
    }
  }

  /// One use of a state's value; dropped after the last.
  at::Tensor take(Slot* slot) {
    auto found = values_.find(slot);
    TORCH_INTERNAL_ASSERT(found != values_.end());
    at::Tensor t = found->second;
    if (--uses_[slot] == 0)
      values_.erase(found);
    return t;
  }

  void rebuild(const RecordPtr& r) {
    ++counters().pulls;
    Tensors y, z;
    for (const SlotPtr& s : r->y)
      y.push_back(take(s.get()));
    for (const SlotPtr& s : r->z)
      z.push_back(take(s.get()));
    Tensors x = undoRecord(*r, std::move(y), std::move(z));
    for (auto& [index, slot] : outputs_[r.get()])
      values_[slot] = slot->asItWas(x.at(index));
  }

  const Record& neededBy_;
  std::vector<std::pair<RecordPtr, size_t>> open_;
  std::vector<RecordPtr> order_;
  std::unordered_map<Record*, std::vector<std::pair<size_t, Slot*>>> outputs_;
  std::unordered_map<Slot*, at::Tensor> values_;
  std::unordered_map<Slot*, int> uses_;
};

} // namespace

Tensors pull(const std::vector<SlotPtr>& wanted, const Record& neededBy) {
  Tensors result;
  for (const SlotPtr& s : wanted) {
    at::Tensor value = s->get(neededBy).value;
    if (!value.defined())
      return Puller(neededBy).run(wanted);
    result.push_back(std::move(value));
  }
  return result;
}

} // namespace inv
