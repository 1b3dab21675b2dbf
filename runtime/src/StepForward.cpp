#include "StepForward.h"

#include "ScaledSum.h"
#include "StepNode.h"
#include "Undo.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <unordered_set>

namespace inv {
namespace {

namespace ag = torch::autograd;

/// float64's errors may grow that much more than float32's: with the default
/// bound to at most 2e-6 and 6e-5 of an element.
constexpr double kMoreGrowthInDouble = 1e7;

/// One call of a step operator.
class StepCall {
public:
  StepCall(StepKind kind, std::shared_ptr<const StepFunctions> step,
           const Tensors& x, const Tensors& z, const Tensors& captures,
           Extras extras)
      : x_(x), z_(z), captures_(captures),
        record_(std::make_shared<Record>(kind, std::move(step))) {
    record_->numX = x.size();
    record_->extras = std::move(extras);
    record_->functionExtras = functionExtras();
    scaledSum_ = layout().arithmetic == Arithmetic::ScaledSum && !x.empty();
    checkArguments();
  }

  Tensors run() {
    mode_ = record_->step->mode();
    if (mode_ == Mode::Store || !needsGrad() || !isOrdinary())
      return compute();
    evaluate();
    if (mode_ == Mode::Invert && record_->kind != StepKind::Checkpoint)
      if (const char* reason = whyNotInvertible()) {
        mode_ = Mode::Recompute;
        reportKept(reason);
      }
    // An ordinary thing on a long chain: counted, not reported.
    if (mode_ == Mode::Invert && record_->kind != StepKind::Checkpoint &&
        isTooInaccurate()) {
      mode_ = Mode::Recompute;
      ++counters().kept;
    }
    return attach();
  }

private:
  const StepLayout& layout() const { return record_->step->layout(); }
  std::string me() const { return describe(record_->kind, *record_->step); }

  Extras functionExtras() const {
    if (record_->kind == StepKind::Bijection || layout().functionExtrasAll)
      return record_->extras;
    Extras result;
    for (int64_t i : layout().functionExtras)
      result.push_back(record_->extras.at(static_cast<size_t>(i)));
    return result;
  }

  void checkArguments() const {
    TORCH_CHECK(!scaledSum_ || (x_.size() == 1 && layout().numStates == 1 &&
                                layout().numAux == 1 &&
                                record_->kind == StepKind::Coupling),
                me(),
                ": arithmetic 'scaled_sum' takes a coupling with one x "
                "and one aux");
    TORCH_CHECK(record_->kind == StepKind::Checkpoint || !x_.empty(), me(),
                ": no x");
    for (int64_t i : layout().scratch)
      TORCH_CHECK(i >= 0 && static_cast<size_t>(i) < captures_.size(), me(),
                  ": scratch capture ", i, " of ", captures_.size());
  }

  bool needsGrad() const {
    return at::GradMode::is_enabled() &&
           (anyRequiresGrad(x_) || conditionerRequiresGrad());
  }
  static bool anyRequiresGrad(const Tensors& list) {
    return std::any_of(list.begin(), list.end(),
                       [](const at::Tensor& t) { return t.requires_grad(); });
  }
  bool conditionerRequiresGrad() const {
    if (anyRequiresGrad(z_))
      return true;
    for (size_t i = 0; i < captures_.size(); i++)
      if (captures_[i].requires_grad() && !layout().isScratch(i))
        return true;
    return false;
  }

  /// Slots can stand for these states: dense memory with a version counter, no
  /// forward-mode gradients. Else autograd does all by itself.
  bool isOrdinary() const {
    const auto ordinary = [](const at::Tensor& t) {
      return t.defined() && t.layout() == at::kStrided && t.has_storage() &&
             !t.is_inference() && !t._fw_grad(/*level=*/0).defined();
    };
    return std::all_of(x_.begin(), x_.end(), ordinary) &&
           std::all_of(z_.begin(), z_.end(), ordinary) &&
           std::all_of(captures_.begin(), captures_.end(), ordinary);
  }

  /// The plain composition, under the caller's grad mode.
  Tensors compute() {
    Tensors aux, sides, result;
    runConditioner(z_, captures_, aux, sides);
    if (scaledSum_)
      result = {needsGrad() ? scaledSumWithGrad(x_[0], aux[0], layout())
                            : scaledSum(x_[0], std::move(aux[0]), layout())};
    else if (record_->kind != StepKind::Checkpoint)
      result = record_->step->runFunction(x_, std::move(aux),
                                          record_->functionCaptures(captures_),
                                          record_->functionExtras);
    result.insert(result.end(), sides.begin(), sides.end());
    result.insert(result.end(), z_.begin(), z_.end());
    return result;
  }

  void runConditioner(const Tensors& z, const Tensors& captures, Tensors& aux,
                      Tensors& sides) const {
    if (record_->kind == StepKind::Bijection)
      return;
    aux = record_->step->runConditioner(z, captures, record_->extras);
    const auto rest =
        aux.begin() + static_cast<std::ptrdiff_t>(layout().numAux);
    sides.assign(rest, aux.end());
    aux.erase(rest, aux.end());
  }

  /// Runs the methods without grad mode; notes what a replay must know.
  void evaluate() {
    at::NoGradGuard noGrad;
    const auto devices = acceleratorsOf({&x_, &z_, &captures_});
    record_->replay.autocast = AutocastState::now(devices);
    std::optional<RngState> before, between;
    const bool watchRng = record_->step->preserveRng();
    if (watchRng)
      before = RngState::now(devices);

    const Tensors captures = detachAll(captures_);
    Tensors aux;
    runConditioner(detachAll(z_), captures, aux, sides_);
    const bool asksGrowth =
        mode_ == Mode::Invert && record_->kind != StepKind::Checkpoint;
    Tensors growthAux;
    if (asksGrowth && !record_->step->growthIsConstant())
      growthAux = aux;
    if (watchRng)
      between = RngState::now(devices);
    if (scaledSum_)
      y_ = {scaledSum(x_[0].detach(), std::move(aux[0]), layout())};
    else if (record_->kind != StepKind::Checkpoint)
      y_ = record_->step->runFunction(detachAll(x_), std::move(aux),
                                      record_->functionCaptures(captures),
                                      record_->functionExtras);
    if (asksGrowth)
      growth_ = growthOfStates() *
                record_->step->growth(y_, std::move(growthAux),
                                      record_->functionCaptures(captures),
                                      record_->functionExtras);
    if (watchRng && !(RngState::now(devices) == *before)) {
      record_->replay.atConditioner = std::move(before);
      record_->replay.atFunction = std::move(between);
      ++counters().rngSaved;
    }
    // Tensors of our own, whatever the methods returned.
    y_ = detachAll(y_);
    sides_ = detachAll(sides_);
  }

  /// What only the run can tell: a sentence, or null if x can be handed over.
  const char* whyNotInvertible() const {
    for (const Tensors* states : {&x_, static_cast<const Tensors*>(&y_)})
      for (const at::Tensor& t : *states)
        if (t.scalar_type() != at::kFloat && t.scalar_type() != at::kDouble)
          return "its states are neither float32 nor float64, so undoing it "
                 "would lose too much";
    for (const at::Tensor& y : y_)
      if (y.scalar_type() != x_[0].scalar_type())
        return "the state changes its dtype";
    if (scaledSum_ && y_[0].sizes() != x_[0].sizes())
      return "the state is broadcast";
    if (record_->kind == StepKind::Coupling && numel(y_) != numel(x_))
      return "the state is broadcast";
    return nullptr;
  }

  /// Of the states that this step reads, the largest growth since a state of
  /// their chain was kept.
  double growthOfStates() const {
    double growth = 1;
    for (const Tensors* states : {&x_, &z_})
      for (const at::Tensor& t : *states)
        growth = std::max(growth, slotOf(t)->growth());
    return growth;
  }

  /// Undoing the steps since the last kept state, this one included, would
  /// enlarge rounding errors too much.
  bool isTooInaccurate() const {
    const double most = record_->step->maxGrowth();
    return !(growth_ <= (x_[0].scalar_type() == at::kDouble
                             ? most * kMoreGrowthInDouble
                             : most));
  }

  static int64_t numel(const Tensors& list) {
    int64_t n = 0;
    for (const at::Tensor& t : list)
      n += t.numel();
    return n;
  }

  void reportKept(const char* reason) const {
    ++counters().kept;
    static auto* mutex = new std::mutex;
    static auto* reported = new std::unordered_set<std::string>;
    const std::string name = me();
    {
      std::lock_guard lock(*mutex);
      if (!reported->insert(name + reason).second)
        return;
    }
    TORCH_WARN(name, ": this call keeps its input for backward, since ", reason,
               ". Reported once for each step.");
  }

  /// Makes the node and the slots, and hands the x over.
  Tensors attach() {
    auto node = std::shared_ptr<StepNode>(new StepNode, ag::deleteNode);
    node->set_next_edges(edges());
    record_->saveCaptures(captures_);
    for (const at::Tensor& t : z_)
      record_->z.push_back(readSlot(t));
    for (const at::Tensor& t : x_)
      node->inputs.push_back({t.sizes().vec(), t.scalar_type()});
    attachOutputs(node);
    // From here nothing throws, or a state would be dropped without a node
    // that rebuilds it.
    if (mode_ == Mode::Invert)
      handOver(*node);
    else
      keepX(*node);
    node->record = record_;
    Tensors result = std::move(y_);
    result.insert(result.end(), sides_.begin(), sides_.end());
    result.insert(result.end(), passed_.begin(), passed_.end());
    return result;
  }

  ag::edge_list edges() const {
    ag::edge_list result;
    const auto add = [&](const at::Tensor& t) {
      result.push_back(t.requires_grad() ? ag::impl::gradient_edge(t)
                                         : ag::Edge());
    };
    std::for_each(x_.begin(), x_.end(), add);
    std::for_each(z_.begin(), z_.end(), add);
    for (size_t i = 0; i < captures_.size(); i++)
      if (layout().isScratch(i))
        result.emplace_back();
      else
        add(captures_[i]);
    return result;
  }

  /// The slot of a state that this step reads. One that an earlier step has
  /// consumed already gets a fresh slot that holds it: edges from slots to
  /// records then always lead to steps that ran later, so there is no cycle.
  static SlotPtr readSlot(const at::Tensor& t) {
    SlotPtr slot = slotOf(t);
    if (slot->isConsumed())
      slot = std::make_shared<Slot>(t);
    slot->hold(t);
    return slot;
  }

  /// y, sides and the passed z become outputs of the node, in this order.
  void attachOutputs(const std::shared_ptr<StepNode>& node) {
    const bool condGrad = conditionerRequiresGrad();
    const auto attachOne = [&](const at::Tensor& t, bool grad) {
      if (grad && (at::isFloatingType(t.scalar_type()) ||
                   at::isComplexType(t.scalar_type())))
        ag::create_gradient_edge(const_cast<at::Tensor&>(t), node);
      else
        node->add_input_metadata(ag::Node::undefined_input());
    };
    for (const at::Tensor& t : y_) {
      record_->y.push_back(std::make_shared<Slot>(t));
      if (mode_ == Mode::Invert)
        record_->y.back()->setGrowth(growth_);
      if (mode_ == Mode::Invert) // until the next step consumes it
        record_->y.back()->hold(t);
      attachOne(t, true);
    }
    for (const at::Tensor& t : sides_) {
      record_->sides.push_back(std::make_shared<Slot>(t));
      attachOne(t, condGrad);
    }
    at::NoGradGuard noGrad;
    for (const at::Tensor& t : z_) {
      passed_.push_back(t.detach());
      attachOne(passed_.back(), t.requires_grad());
    }
  }

  void handOver(StepNode& node) {
    for (size_t i = 0; i < x_.size(); i++) {
      SlotPtr slot = slotOf(x_[i]);
      node.xs.push_back(slot);
      // Not a state that this step reads as well: it needs it to undo itself.
      if (std::find(record_->z.begin(), record_->z.end(), slot) ==
          record_->z.end())
        slot->handOver(record_, i);
    }
  }

  void keepX(StepNode& node) {
    node.keepsX = true;
    if (!scaledSum_) // whose gradient does not read x
      for (const at::Tensor& t : x_)
        node.xs.push_back(readSlot(t));
  }

  const Tensors &x_, &z_, &captures_;
  RecordPtr record_;
  bool scaledSum_ = false;
  double growth_ = 1;
  Mode mode_ = Mode::Invert;
  Tensors y_, sides_, passed_;
};

} // namespace

Tensors runStep(StepKind kind, std::shared_ptr<const StepFunctions> step,
                const Tensors& x, const Tensors& z, const Tensors& captures,
                Extras extras) {
  return StepCall(kind, std::move(step), x, z, captures, std::move(extras))
      .run();
}

} // namespace inv
