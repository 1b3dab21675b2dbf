#include "StepForward.h"

#include "ScaledSum.h"
#include "StepNode.h"
#include "Undo.h"

#include <ATen/ExpandUtils.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <cmath>
#include <unordered_set>

namespace inv {
namespace {

namespace ag = torch::autograd;

/// float64's errors may grow that much more than float32's: with the default
/// bound to at most 4e-13 and 2e-6 of an element.
constexpr double kMoreGrowthInDouble = 100;

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
    ordinary_ = isOrdinary();
    if (mode_ == Mode::Store || !needsGrad() || !ordinary_)
      return compute();
    noteNeedsGrad();
    record_->saveScratch(captures_, [this](size_t i) {
      return record_->step->readsScratch(shape(), i, record_->extras);
    });
    evaluate();
    if (std::none_of(outputGrad_.begin(), outputGrad_.end(),
                     [](bool grad) { return grad; }))
      return results(z_); // nothing depends on what needs a gradient
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
    for (int64_t i : layout().functionExtras) {
      TORCH_CHECK(i >= 0 && static_cast<size_t>(i) < record_->extras.size(),
                  me(), ": function takes extra ", i, " of ",
                  record_->extras.size());
      result.push_back(record_->extras[static_cast<size_t>(i)]);
    }
    return result;
  }
  CallShape shape() const {
    return {record_->kind, x_.size(), z_.size(), captures_.size()};
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
    for (const auto* list : {&layout().scratch, &layout().functionCaptures})
      for (int64_t i : *list)
        TORCH_CHECK(i >= 0 && static_cast<size_t>(i) < captures_.size(), me(),
                    ": its class names capture ", i, " of ", captures_.size());
    const std::string wrong = record_->step->whatIsWrong(shape());
    TORCH_CHECK(wrong.empty(), me(), ": ", wrong);
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
    // Tangents and the tensors of function transforms pass ATen's operators
    // only.
    if (scaledSum_)
      result = {needsGrad() || !ordinary_
                    ? scaledSumWithGrad(x_[0], aux[0], layout())
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

  void noteNeedsGrad() {
    std::vector<bool>& needs = record_->needsGrad;
    for (const Tensors* list : {&x_, &z_})
      for (const at::Tensor& t : *list)
        needs.push_back(t.requires_grad());
    for (size_t i = 0; i < captures_.size(); i++)
      needs.push_back(captures_[i].requires_grad() && !layout().isScratch(i));
  }

  /// Runs the methods as plain autograd would run them, with grad mode on
  /// leaves of our own: ATen's choice of a kernel depends on it, and the
  /// results tell which of them need a gradient. Their graph is dropped at
  /// once. Notes what a replay must know.
  void evaluate() {
    const auto devices = acceleratorsOf({&x_, &z_, &captures_});
    record_->replay.autocast = AutocastState::now(devices);
    record_->replay.settings = Settings::now();
    const EvaluationGuard guard;
    const bool watch = record_->step->preserveRng();
    std::unique_lock<std::recursive_mutex> drawing;
    if (watch && record_->step->mayDraw())
      drawing = std::unique_lock(drawMutex());

    std::optional<RngState> state;
    if (watch)
      state = RngState::now(devices);
    const auto noteDraw = [&](std::optional<Draw>& draw) {
      if (!watch)
        return;
      RngState after = RngState::now(devices);
      if (!(after == *state))
        draw = Draw{std::move(*state), after.fingerprint()};
      state = std::move(after);
    };
    const std::vector<bool>& needs = record_->needsGrad;
    const Tensors captures = leavesOf(captures_, needs, x_.size() + z_.size());
    Tensors aux;
    runConditioner(leavesOf(z_, needs, x_.size()), captures, aux, sides_);
    noteDraw(record_->replay.conditioner);
    Tensors growthAux;
    if (mode_ == Mode::Invert && !record_->step->growthIsConstant())
      growthAux = detachAll(aux);
    if (scaledSum_) {
      outputGrad_ = {x_[0].requires_grad() || aux[0].requires_grad()};
      at::Tensor f = aux[0].detach();
      aux.clear(); // and with it the graph, which may hold f's memory
      y_ = {scaledSum(x_[0].detach(), std::move(f), layout())};
    } else if (record_->kind != StepKind::Checkpoint) {
      y_ = record_->step->runFunction(leavesOf(x_, needs, 0), std::move(aux),
                                      record_->functionCaptures(captures),
                                      record_->functionExtras);
      noteDraw(record_->replay.function);
      for (const at::Tensor& t : y_)
        outputGrad_.push_back(t.requires_grad());
    }
    for (const at::Tensor& t : sides_)
      outputGrad_.push_back(t.requires_grad());
    // Tensors of our own, whatever the methods returned.
    y_ = detachAll(y_);
    sides_ = detachAll(sides_);
    if (mode_ == Mode::Invert && record_->kind != StepKind::Checkpoint)
      growth_ =
          std::max(1.0, growthOfStates() * growthOfStep(std::move(growthAux)));
    if (record_->replay.conditioner || record_->replay.function) {
      record_->step->noteDrew();
      ++counters().rngSaved;
    }
  }

  /// What only the run can tell: a sentence, or null if x can be handed over.
  const char* whyNotInvertible() const {
    for (const Tensors* states : {&x_, static_cast<const Tensors*>(&y_)})
      for (const at::Tensor& t : *states) {
        if (t.scalar_type() != at::kFloat && t.scalar_type() != at::kDouble)
          return "its states are neither float32 nor float64, so undoing it "
                 "would lose too much";
        if (t.scalar_type() != x_[0].scalar_type())
          return "the state changes its dtype";
        if (t.device() != x_[0].device())
          return "the state changes its device";
      }
    if (isBroadcast())
      return "the state is broadcast";
    if (record_->step->choosesByX(shape()))
      return "its function makes a discrete choice, which a rounding error "
             "could turn";
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

  /// By how much this step's inverse enlarges errors.
  double growthOfStep(Tensors aux) const {
    // y = s * x + f(z): dividing by s enlarges the error of y, and as well what
    // the error of z, which was divided on its way, does to f. By how much f
    // enlarges it nobody knows; where s < 1 lets the states shrink, layer norms
    // make it a lot. So the factor counts twice: a guess that was measured
    // (docs/hazards.md, row 27), no bound.
    if (scaledSum_) {
      const double factor = 1 / std::abs(layout().xScale);
      return factor > 1 ? factor * factor : factor;
    }
    const at::NoGradGuard noGrad;
    return record_->step->growth(
        y_, std::move(aux), record_->functionCaptures(detachAll(captures_)),
        record_->functionExtras);
  }

  /// Undoing the steps since the last kept state, this one included, would
  /// enlarge rounding errors too much.
  bool isTooInaccurate() const {
    const double most = record_->step->maxGrowth();
    return !(growth_ <= (x_[0].scalar_type() == at::kDouble
                             ? most * kMoreGrowthInDouble
                             : most));
  }

  /// Values of x are repeated in y, so that undoing y gives other sizes. (A
  /// bijection may well have another number of elements in y: a linear layer,
  /// a padding.)
  bool isBroadcast() const {
    if (x_.size() != y_.size())
      return false;
    if (record_->kind == StepKind::Coupling && numel(y_) != numel(x_))
      return true;
    const auto repeats = [](const at::Tensor& x, const at::Tensor& y) {
      return x.numel() != y.numel() &&
             at::is_expandable_to(x.sizes(), y.sizes());
    };
    if (sortedSizes(x_) == sortedSizes(y_))
      return false;
    for (size_t i = 0; i < x_.size(); i++)
      if (repeats(x_[i], y_[i]))
        return true;
    return false;
  }

  static int64_t numel(const Tensors& list) {
    int64_t n = 0;
    for (const at::Tensor& t : list)
      n += t.numel();
    return n;
  }

  static std::vector<std::vector<int64_t>> sortedSizes(const Tensors& list) {
    std::vector<std::vector<int64_t>> result;
    for (const at::Tensor& t : list)
      result.push_back(t.sizes().vec());
    std::sort(result.begin(), result.end());
    return result;
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
    if (record_->step->choosesByZ(shape()))
      reportKept("its conditioner makes a discrete choice, which a rounding "
                 "error could turn");
    // Two threads that each read what the other consumes must not both read
    // first: records and slots would go round in a circle.
    static auto* mutex = new std::mutex;
    const std::lock_guard lock(*mutex);
    for (size_t i = 0; i < z_.size(); i++)
      readZ(i);
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
    return results(passed_);
  }

  Tensors results(const Tensors& passed) {
    Tensors result = std::move(y_);
    result.insert(result.end(), sides_.begin(), sides_.end());
    result.insert(result.end(), passed.begin(), passed.end());
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

  /// The slot of a state that this step reads or passes through. One that an
  /// earlier step has consumed already gets a fresh slot: edges from slots to
  /// records then always lead to steps that ran later, so there is no cycle.
  static SlotPtr unconsumedSlot(const at::Tensor& t) {
    SlotPtr slot = slotOf(t);
    return slot->isConsumed() ? std::make_shared<Slot>(t) : slot;
  }
  static SlotPtr readSlot(const at::Tensor& t) {
    SlotPtr slot = unconsumedSlot(t);
    slot->hold(t);
    return slot;
  }

  void readZ(size_t i) {
    if (record_->step->choosesByZ(shape())) {
      // A copy that is never handed over: as exact as it is now.
      record_->passed.push_back(unconsumedSlot(z_[i]));
      record_->z.push_back(std::make_shared<Slot>(z_[i]));
      record_->z.back()->hold(z_[i]);
      return;
    }
    SlotPtr slot = readSlot(z_[i]);
    if (record_->step->kinksAtZ(i))
      slot->noteZeros();
    record_->passed.push_back(slot);
    record_->z.push_back(std::move(slot));
  }

  /// y, sides and the passed z become outputs of the node, in this order.
  void attachOutputs(const std::shared_ptr<StepNode>& node) {
    auto grad = outputGrad_.begin();
    const auto attachOne = [&](const at::Tensor& t, bool needsGrad) {
      if (needsGrad)
        ag::create_gradient_edge(const_cast<at::Tensor&>(t), node);
      else
        node->add_input_metadata(ag::Node::undefined_input());
    };
    for (const at::Tensor& t : y_) {
      record_->y.push_back(std::make_shared<Slot>(t));
      if (mode_ == Mode::Invert) { // until the next step consumes it
        record_->y.back()->setGrowth(growth_);
        record_->y.back()->hold(t);
      }
      attachOne(t, *grad++);
    }
    for (const at::Tensor& t : sides_) {
      record_->sides.push_back(std::make_shared<Slot>(t));
      attachOne(t, *grad++);
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
      const auto isIn = [&](const std::vector<SlotPtr>& slots) {
        return std::find(slots.begin(), slots.end(), slot) != slots.end();
      };
      if (!isIn(record_->z) && !isIn(record_->passed)) {
        if (record_->step->kinksAtX(i))
          slot->noteZeros();
        slot->handOver(record_, i, x_[i].detach());
      }
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
  bool ordinary_ = true;
  Mode mode_ = Mode::Invert;
  Tensors y_, sides_, passed_;
  std::vector<bool> outputGrad_; // plain autograd's, of y and sides
};

} // namespace

Tensors runStep(StepKind kind, std::shared_ptr<const StepFunctions> step,
                const Tensors& x, const Tensors& z, const Tensors& captures,
                Extras extras) {
  return StepCall(kind, std::move(step), x, z, captures, std::move(extras))
      .run();
}

} // namespace inv
