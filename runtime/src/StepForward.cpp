#include "StepForward.h"

#include "CallChecks.h"
#include "ScaledSum.h"
#include "StepNode.h"
#include "Undo.h"

#include "inv/Abi.h"
#include "kernels/Kernels.h"

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
    ordinary_ = areOrdinary({&x_, &z_, &captures_});
    if (mode_ == Mode::Store || !needsGrad() || !ordinary_)
      return compute();
    capturing_ = isCapturing();
    if (const std::string reason = whyNotReplayed(); !reason.empty()) {
      reportKept(reason);
      return compute();
    }
    noteNeedsGrad();
    record_->saveScratch(captures_, [this](size_t i) {
      return record_->step->readsScratch(shape(), i, record_->extras);
    });
    evaluate();
    if (std::none_of(outputGrad_.begin(), outputGrad_.end(),
                     [](bool grad) { return grad; }))
      return results(z_); // nothing depends on what needs a gradient
    if (mode_ == Mode::Invert && record_->kind != StepKind::Checkpoint)
      if (const std::string reason = whyKept(); !reason.empty()) {
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
           (anyRequiresGrad(x_) || anyRequiresGrad(z_) ||
            anyRequiresGrad(captures_));
  }
  static bool anyRequiresGrad(const Tensors& list) {
    return std::any_of(list.begin(), list.end(),
                       [](const at::Tensor& t) { return t.requires_grad(); });
  }

  /// Is this call recorded into a CUDA graph? Then the host may not wait for
  /// values, nor look at the generator.
  bool isCapturing() const {
    for (const Tensors* list : {&x_, &z_, &captures_})
      for (const at::Tensor& t : *list)
        if (t.is_cuda())
          return kernels::isCapturing(t);
    return false;
  }

  /// Why this call is left to plain autograd: a sentence, or empty.
  std::string whyNotReplayed() const {
    if (capturing_ && record_->step->mayDraw())
      return "random numbers in a CUDA graph cannot be drawn again";
    // A replay's copy has no history.
    for (size_t i = 0; i < captures_.size(); i++)
      if (captures_[i].requires_grad() && layout().isScratch(i) &&
          record_->step->readsScratch(shape(), i, record_->extras))
        return "capture " + std::to_string(i) +
               ", which the model writes, needs a gradient";
    return record_->step->whyNotReplayed();
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

    // A GPU's generator does not answer while a graph is captured; then steps
    // that may draw are not here.
    const auto generators =
        capturing_ ? std::vector<c10::Device>()
                   : generatorsFor(devices, record_->step->mayDraw());
    std::optional<RngState> state;
    if (watch)
      state = RngState::now(generators);
    const auto noteDraw = [&](std::optional<Draw>& draw) {
      if (!watch)
        return;
      RngState after = RngState::now(generators);
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
    if (measuresGrowth())
      growthAux = detachAll(aux);
    if (scaledSum_) {
      outputGrad_ = {x_[0].requires_grad() || aux[0].requires_grad()};
      at::Tensor f = aux[0].detach();
      aux.clear(); // and with it the graph, which may hold f's memory
      y_ = {scaledSum(x_[0], std::move(f), layout())};
    } else if (record_->kind != StepKind::Checkpoint) {
      y_ = record_->step->runFunction(leavesOf(x_, needs, 0), std::move(aux),
                                      record_->functionCaptures(captures),
                                      record_->functionExtras);
      noteDraw(record_->replay.function);
      for (const at::Tensor& t : y_)
        outputGrad_.push_back(t.requires_grad());
      // A tensor of our own, whatever the method returned.
      y_ = detachAll(y_);
    }
    for (const at::Tensor& t : sides_)
      outputGrad_.push_back(t.requires_grad());
    sides_ = detachAll(sides_);
    if (mode_ == Mode::Invert && record_->kind != StepKind::Checkpoint &&
        (measuresGrowth() || record_->step->growthIsConstant()))
      growth_ =
          std::max(1.0, growthOfStates() * growthOfStep(std::move(growthAux)));
    if (record_->replay.conditioner || record_->replay.function) {
      record_->step->noteDrew();
      ++counters().rngSaved;
    }
  }

  /// Why x cannot be handed over: a sentence, or empty.
  std::string whyKept() const {
    if (const char* reason =
            whyNotInvertible(x_, y_, !z_.empty(), layout().resizes))
      return reason;
    for (size_t i = 0; i < x_.size(); i++)
      if (const std::string choice = record_->step->choiceAtX(
              shape(), i, captures_, record_->functionExtras);
          !choice.empty())
        return chosenBy("function", choice);
    if (capturing_ && !record_->step->growthIsConstant())
      return "in a CUDA graph nobody can ask by how much undoing it enlarges "
             "errors";
    return {};
  }

  static std::string chosenBy(const char* method, const std::string& choice) {
    return std::string("its ") + method + " makes a discrete choice (" +
           choice + "), which a rounding error could turn";
  }

  /// By how much this step enlarges errors depends on values, which is asked.
  bool measuresGrowth() const {
    return mode_ == Mode::Invert && !capturing_ &&
           !record_->step->growthIsConstant();
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
    if (scaledSum_)
      return abi::growthOfScale(1 / std::abs(layout().xScale));
    // Of no elements there is no largest.
    if (std::all_of(y_.begin(), y_.end(),
                    [](const at::Tensor& t) { return t.numel() == 0; }))
      return 1;
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

  void reportKept(const std::string& reason) const {
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
    findChoices();
    findTies();
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
    for (const Tensors* states : {&x_, &z_})
      for (const at::Tensor& t : *states)
        result.push_back(edgeTo(t));
    for (size_t i = 0; i < captures_.size(); i++)
      result.push_back(captures_[i].requires_grad() && !layout().isScratch(i)
                           ? ag::impl::gradient_edge(captures_[i])
                           : ag::Edge());
    return result;
  }

  /// Which z the conditioner chooses by.
  void findChoices() {
    for (size_t i = 0; i < z_.size(); i++) {
      const std::string choice =
          record_->step->choiceAtZ(shape(), i, captures_, record_->extras);
      choosesByZ_.push_back(!choice.empty());
      if (!choice.empty())
        reportKept(chosenBy("conditioner", choice));
    }
  }

  /// What takes time of handing the x over, before anybody is locked out.
  void findTies() {
    for (size_t i = 0; i < x_.size(); i++) {
      xSlots_.push_back(slotOf(x_[i]));
      if (mode_ != Mode::Invert)
        continue;
      xSlots_[i]->wantTies(record_->step->tiesAtX(i));
      xSlots_[i]->findTies(x_[i]);
    }
  }

  /// The slot of a state that this step reads or passes through. One that an
  /// earlier step has consumed already gets a fresh slot: edges from slots to
  /// records then always lead to steps that ran later, so there is no cycle.
  static SlotPtr unconsumedSlot(const at::Tensor& t) {
    SlotPtr slot = slotOf(t);
    return slot->isConsumed() ? std::make_shared<Slot>(t) : slot;
  }
  /// The slot of a state whose value this step needs in backward. A state that
  /// it chooses by gets one of its own, which is never handed over: as exact as
  /// it is now.
  static SlotPtr readBy(const at::Tensor& t, const std::vector<double>& ties,
                        bool chooses) {
    SlotPtr slot = chooses ? std::make_shared<Slot>(t) : unconsumedSlot(t);
    slot->wantTies(ties);
    slot->hold(t);
    return slot;
  }

  void readZ(size_t i) {
    record_->z.push_back(
        readBy(z_[i], record_->step->tiesAtZ(i), choosesByZ_[i]));
    record_->passed.push_back(choosesByZ_[i] ? unconsumedSlot(z_[i])
                                             : record_->z.back());
  }

  /// y, sides and the passed z become outputs of the node, in this order.
  void attachOutputs(const std::shared_ptr<StepNode>& node) {
    auto grad = outputGrad_.begin();
    const bool several = y_.size() + sides_.size() + z_.size() > 1;
    const auto attachOne = [&](const at::Tensor& t, bool needsGrad,
                               bool shown) {
      if (needsGrad)
        attachOutput(node, t, shown);
      else
        node->add_input_metadata(ag::Node::undefined_input());
    };
    for (const at::Tensor& t : y_) {
      record_->y.push_back(std::make_shared<Slot>(t));
      if (mode_ == Mode::Invert) { // until the next step consumes it
        record_->y.back()->setGrowth(growth_);
        record_->y.back()->hold(t);
      }
      attachOne(t, *grad++, several);
    }
    for (const at::Tensor& t : sides_) {
      record_->sides.push_back(std::make_shared<Slot>(t));
      attachOne(t, *grad++, several);
    }
    at::NoGradGuard noGrad;
    for (const at::Tensor& t : z_) {
      passed_.push_back(t.detach());
      attachOne(passed_.back(), t.requires_grad(), false);
    }
  }

  void handOver(StepNode& node) {
    for (size_t i = 0; i < x_.size(); i++) {
      const SlotPtr& slot = xSlots_[i];
      node.xs.push_back(slot);
      // Not a state that this step reads as well: it needs it to undo itself.
      const auto isIn = [&](const std::vector<SlotPtr>& slots) {
        return std::find(slots.begin(), slots.end(), slot) != slots.end();
      };
      if (!isIn(record_->z) && !isIn(record_->passed))
        slot->handOver(record_, i, x_[i]);
    }
  }

  void keepX(StepNode& node) {
    node.keepsX = true;
    if (scaledSum_) // whose gradient does not read x
      return;
    for (size_t i = 0; i < x_.size(); i++)
      node.xs.push_back(readBy(
          x_[i], record_->step->tiesAtX(i),
          !record_->step
               ->choiceAtX(shape(), i, captures_, record_->functionExtras)
               .empty()));
  }

  const Tensors &x_, &z_, &captures_;
  RecordPtr record_;
  bool scaledSum_ = false;
  double growth_ = 1;
  bool ordinary_ = true, capturing_ = false;
  std::vector<bool> choosesByZ_;
  std::vector<SlotPtr> xSlots_;
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
