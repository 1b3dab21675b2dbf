// One backward of one step.
//
//   states    y and z come from their slots (pulled, where they were handed
//             over and the next step has not run)
//   evaluate  the conditioner runs once, with grad mode on; its value undoes
//             the step, its graph gives the gradients
//   undo      x = T^-1(y; aux) goes into its slot, for the step that made it
//   rerun     unless the function's gradient has a closed form, the function
//             runs again on the rebuilt x
//   gradients one run of the engine on the local graph
//
// Under create_graph the rebuilt tensors carry the edges of the originals, so
// that second derivatives flow on into the outer graph.
#include "ScaledSum.h"
#include "StepNode.h"
#include "Undo.h"

#include <ATen/ExpandUtils.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mul.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <optional>

namespace inv {

namespace ag = torch::autograd;
using ag::variable_list;

class StepBackward {
public:
  StepBackward(StepNode& node, variable_list grads)
      : node_(node), grads_(std::move(grads)),
        createGraph_(at::GradMode::is_enabled()) {
    std::lock_guard lock(node.mutex_);
    TORCH_CHECK(node.record, ag::ERR_BACKWARD_TWICE);
    record_ = node.record;
    xs_ = node.xs;
    release_ = std::exchange(node.willRelease_, false);
  }

  variable_list run() {
    decide();
    {
      const std::optional<OutsideOfTransforms> outside = leaveTransforms();
      fetchStates();
      const ReplayGuard guard(*record_, /*keepHooks=*/createGraph_);
      makeLeaves();
      evaluate(guard);
      if (scaledSum_)
        undoSum();
      else
        undoGeneral(guard);
      if (rerun_ && !scaledSum_ && !linear_)
        rerunFunction(guard);
    }
    variable_list result(nx_ + nz_ + nc_);
    functionGradients(result);
    localGradients(result);
    passedGradients(result);
    return result;
  }

private:
  /// Gradients may be many at once (is_grads_batched, vmap over a backward).
  /// What runs again is no part of that: it draws its numbers once.
  using OutsideOfTransforms = c10::impl::ExcludeDispatchKeyGuard;
  std::optional<OutsideOfTransforms> leaveTransforms() const {
    using Key = c10::DispatchKey;
    constexpr c10::DispatchKeySet kBatched(
        {Key::Batched, Key::FuncTorchBatched});
    if (std::none_of(grads_.begin(), grads_.end(), [&](const at::Tensor& g) {
          return g.defined() && g.key_set().has_any(kBatched);
        }))
      return std::nullopt;
    return std::make_optional<OutsideOfTransforms>(
        c10::DispatchKeySet({Key::VmapMode, Key::FuncTorchVmapMode,
                             Key::FuncTorchDynamicLayerFrontMode,
                             Key::FuncTorchDynamicLayerBackMode}));
  }

  const StepLayout& layout() const { return record_->step->layout(); }
  bool wants(size_t edge) const { return wanted_[edge]; }
  bool anyWanted(size_t from, size_t to) const {
    return std::any_of(wanted_.begin() + static_cast<std::ptrdiff_t>(from),
                       wanted_.begin() + static_cast<std::ptrdiff_t>(to),
                       [](bool b) { return b; });
  }
  bool anyGrad(size_t from, size_t to) const {
    return std::any_of(grads_.begin() + static_cast<std::ptrdiff_t>(from),
                       grads_.begin() + static_cast<std::ptrdiff_t>(to),
                       [](const at::Tensor& g) { return g.defined(); });
  }

  /// What has to be computed.
  void decide() {
    ny_ = record_->y.size();
    ns_ = record_->sides.size();
    nx_ = record_->numX;
    nz_ = record_->z.size();
    nc_ = record_->numCaptures();
    for (size_t i = 0; i < nx_ + nz_ + nc_; i++)
      wanted_.push_back(node_.task_should_compute_output(i));
    const Arithmetic arithmetic = layout().arithmetic;
    scaledSum_ = arithmetic == Arithmetic::ScaledSum && nx_ > 0;
    linear_ = arithmetic == Arithmetic::Linear && !createGraph_ &&
              record_->kind == StepKind::Bijection && nx_ == 1 && ny_ == 1 &&
              !record_->replay.autocast.anyEnabled();
    // Besides the node and this object, somebody wants x back.
    if (!node_.keepsX)
      for (const SlotPtr& s : xs_)
        xWanted_ = xWanted_ || s.use_count() > 2;
    const bool grad = anyGrad(0, ny_ + ns_);
    rerun_ = grad && anyWanted(scaledSum_ ? nx_ : 0, nx_ + nz_ + nc_);
    // A linear step needs x for the weight's gradient alone.
    needX_ = rerun_ && !scaledSum_ && nx_ > 0 && (!linear_ || wants(nx_));
    needAux_ = record_->kind != StepKind::Bijection && (xWanted_ || rerun_);
  }

  void fetchStates() {
    const bool undo = xWanted_ || (needX_ && !node_.keepsX);
    std::vector<SlotPtr> slots;
    const auto ask = [&](const std::vector<SlotPtr>& of) {
      slots.insert(slots.end(), of.begin(), of.end());
      return of.size();
    };
    const size_t y = undo ? ask(record_->y) : 0;
    const size_t z = needAux_ ? ask(record_->z) : 0;
    if (needX_ && node_.keepsX)
      ask(xs_);
    Tensors values = pull(slots, *record_);
    slots.clear();
    const auto at = [&](size_t i) {
      return std::make_move_iterator(values.begin() +
                                     static_cast<std::ptrdiff_t>(i));
    };
    y_.assign(at(0), at(y));
    z_.assign(at(y), at(y + z));
    x_.assign(at(y + z), at(values.size()));
    // The step that made a pulled z asks for it next.
    for (size_t i = 0; i < z_.size(); i++)
      if (record_->z[i].use_count() > 1)
        record_->z[i]->putRebuilt(z_[i]);
    // What cached y for its readers: they all have run.
    for (const SlotPtr& s : record_->y)
      s->dropRebuilt();
  }

  /// The tensor that replay computes with for the forward's input number
  /// `edge`, from its value.
  at::Tensor leaf(const at::Tensor& value, size_t edge) {
    at::AutoGradMode gradMode(true);
    at::Tensor t = value.detach();
    if (!createGraph_) {
      if (record_->needsGrad[edge]) // also where nobody wants the gradient now
        t.requires_grad_();
      return t;
    }
    if (const ag::Edge& e = node_.next_edge(edge); e.is_valid())
      ag::impl::set_gradient_edge(t, e);
    // A node of its own, so that the gradient asked for is that of this use,
    // not of every way to the same variable.
    return t.requires_grad() ? t.view_as(t) : t;
  }

  void makeLeaves() {
    if (!needAux_ && !needX_ && !xWanted_ && !rerun_)
      return;
    for (size_t i = 0; i < z_.size(); i++)
      leafZ_.push_back(leaf(z_[i], nx_ + i));
    z_.clear();
    Tensors captures = record_->captures();
    for (size_t i = 0; i < captures.size(); i++)
      leafCaptures_.push_back(record_->isScratch(i)
                                  ? captures[i]
                                  : leaf(captures[i], nx_ + nz_ + i));
  }

  void evaluate(const ReplayGuard& guard) {
    if (!needAux_)
      return;
    at::AutoGradMode gradMode(true); // as in forward, bit for bit
    aux_ = replayConditioner(*record_, guard, leafZ_, leafCaptures_);
    const auto sides =
        aux_.begin() + static_cast<std::ptrdiff_t>(layout().numAux);
    sides_.assign(std::make_move_iterator(sides),
                  std::make_move_iterator(aux_.end()));
    aux_.erase(sides, aux_.end());
  }

  /// Undoes a sum in y's own buffer, if nobody else sees it.
  void undoSum() {
    if (node_.keepsX)
      return;
    const SlotPtr& slot = xs_[0];
    constexpr long kOwners = 2; // the node and this object
    const auto lastUse = [&] {
      if (record_->y[0].use_count() == 1)
        record_->y[0]->drop();
    };
    const auto undo = [&] {
      at::NoGradGuard noGrad;
      return slot->asItWas(scaledSumInverse(std::move(y_[0]), aux_[0].detach(),
                                            layout(),
                                            /*mayReuseY=*/!createGraph_));
    };
    slot->undo(record_, release_, xWanted_, kOwners, lastUse, undo);
    y_.clear();
  }

  void undoGeneral(const ReplayGuard& guard) {
    if (node_.keepsX || nx_ == 0)
      return;
    if (xWanted_ || needX_) {
      x_ = runInverseChecked(*record_, guard, std::move(y_), aux_,
                             record_->functionCaptures(leafCaptures_));
      for (size_t i = 0; i < nx_; i++) {
        at::NoGradGuard noGrad;
        // Leading ones that a broadcast added.
        if (x_[i].sizes() != xs_[i]->sizes() &&
            x_[i].numel() == c10::multiply_integers(xs_[i]->sizes()) &&
            at::is_expandable_to(xs_[i]->sizes(), x_[i].sizes()))
          x_[i] = x_[i].reshape(xs_[i]->sizes());
        TORCH_CHECK(x_[i].sizes() == xs_[i]->sizes(),
                    describe(record_->kind, *record_->step),
                    ": its inverse gave sizes ", x_[i].sizes(),
                    " for x number ", i, ", which had ", xs_[i]->sizes());
        x_[i] = xs_[i]->asItWas(std::move(x_[i]));
        if (xs_[i].use_count() > 2)
          xs_[i]->putRebuilt(x_[i]);
      }
    }
    y_.clear();
    if (!needX_)
      x_.clear();
    if (!release_)
      return;
    for (const SlotPtr& s : xs_)
      s->forget(record_.get());
    // Nobody can reach the record any more: its y have had their last use.
    if (record_.use_count() == 2)
      for (const SlotPtr& s : record_->y)
        if (s.use_count() == 1)
          s->drop();
  }

  void rerunFunction(const ReplayGuard& guard) {
    if (nx_ == 0)
      return;
    at::AutoGradMode gradMode(true);
    for (size_t i = 0; i < nx_; i++)
      leafX_.push_back(leaf(x_[i], i));
    x_.clear();
    guard.beforeFunction();
    results_ = record_->step->runFunction(
        leafX_, std::move(aux_), record_->functionCaptures(leafCaptures_),
        record_->functionExtras);
    guard.afterFunction();
    aux_.clear();
  }

  /// Gradients of the function where they have a closed form.
  void functionGradients(variable_list& result) {
    if (scaledSum_ && grads_[0].defined()) {
      if (wants(0))
        result[0] = scaledTo(grads_[0], layout().xScale, node_.inputs[0].sizes,
                             node_.inputs[0].dtype);
      if (rerun_) {
        results_ = std::move(aux_);
        grads_[0] = scaledTo(std::move(grads_[0]), layout().auxScale,
                             results_[0].sizes(), results_[0].scalar_type());
      }
    }
    if (linear_ && rerun_ && grads_[0].defined())
      linearGradients(result);
    aux_.clear();
  }

  static at::Tensor scaledTo(at::Tensor g, double scale, c10::IntArrayRef sizes,
                             at::ScalarType dtype) {
    if (scale != 1)
      g = at::mul(g, scale);
    return at::sum_to(std::move(g), sizes).to(dtype);
  }

  /// y = x W^T + b over any leading dimensions.
  void linearGradients(variable_list& result) {
    const at::Tensor& g = grads_[0];
    const at::Tensor& weight = leafCaptures_.at(0);
    if (wants(0))
      result[0] = at::matmul(g, weight.detach());
    const auto rows = [](const at::Tensor& t) {
      return t.reshape({-1, t.size(-1)});
    };
    if (wants(1))
      result[1] = at::matmul(rows(g).t(), rows(x_.at(0)));
    if (nc_ > 1 && wants(2))
      result[2] = rows(g).sum(0);
    x_.clear();
  }

  void localGradients(variable_list& result) {
    if (!rerun_ || linear_)
      return;
    ag::edge_list roots, inputs;
    variable_list rootGrads;
    const auto addRoots = [&](Tensors& values, size_t firstGrad) {
      for (size_t i = 0; i < values.size(); i++) {
        at::Tensor& g = grads_[firstGrad + i];
        if (!values[i].requires_grad() || !g.defined())
          continue;
        roots.push_back(ag::impl::gradient_edge(values[i]));
        rootGrads.push_back(std::move(g));
      }
      values.clear(); // kept by the graph where it needs them
    };
    addRoots(results_, 0);
    addRoots(sides_, ny_);
    std::vector<size_t> places;
    const auto addInputs = [&](const Tensors& leaves, size_t first) {
      for (size_t i = 0; i < leaves.size(); i++)
        if (wants(first + i) && leaves[i].requires_grad()) {
          inputs.push_back(ag::impl::gradient_edge(leaves[i]));
          places.push_back(first + i);
        }
    };
    addInputs(leafX_, 0);
    addInputs(leafZ_, nx_);
    addInputs(leafCaptures_, nx_ + nz_);
    if (roots.empty() || inputs.empty())
      return;
    auto gradients = ag::Engine::get_default_engine().execute(
        roots, rootGrads, /*keep_graph=*/createGraph_, createGraph_,
        /*accumulate_grad=*/false, inputs);
    for (size_t i = 0; i < places.size(); i++)
      result[places[i]] = std::move(gradients[i]);
  }

  /// What flows into the z that the step passed through.
  void passedGradients(variable_list& result) {
    for (size_t i = 0; i < nz_; i++) {
      at::Tensor& g = grads_[ny_ + ns_ + i];
      if (!g.defined() || !wants(nx_ + i))
        continue;
      at::Tensor& sum = result[nx_ + i];
      if (!sum.defined())
        sum = std::move(g);
      else if (sum.layout() != at::kStrided)
        sum = at::add(g, sum); // dense + sparse exists, sparse + dense does not
      else if (!createGraph_ && ownsItsMemory(sum) && g.has_storage() &&
               sum.scalar_type() == g.scalar_type())
        sum.add_(g);
      else
        sum = at::add(sum, g);
    }
  }

  StepNode& node_;
  variable_list grads_; // of y, sides, z
  const bool createGraph_;
  bool release_ = false;
  RecordPtr record_;
  std::vector<SlotPtr> xs_;
  size_t ny_ = 0, ns_ = 0, nx_ = 0, nz_ = 0, nc_ = 0;
  std::vector<bool> wanted_; // by edge: x, z, captures
  bool scaledSum_ = false, linear_ = false;
  bool xWanted_ = false, rerun_ = false, needX_ = false, needAux_ = false;
  Tensors y_, z_, x_;                    // values
  Tensors leafX_, leafZ_, leafCaptures_; // what the local graph starts from
  Tensors aux_, sides_, results_;        // with history; results_: its roots
};

variable_list StepNode::apply(variable_list&& grads) {
  // A backward in inference mode would rebuild states that count no versions.
  std::optional<c10::InferenceMode> ordinary;
  std::optional<at::AutoGradMode> gradMode;
  if (c10::InferenceMode::is_enabled()) {
    const bool grad = at::GradMode::is_enabled();
    ordinary.emplace(false);
    gradMode.emplace(grad);
  }
  return StepBackward(*this, std::move(grads)).run();
}

} // namespace inv
