// Norms on the stream.
//
//   y = (x - mean) / sqrt(var + eps) * w + b
//   x = (y - b) / w * sqrt(var + eps) + mean
//
//   batch_norm      mean and var per channel: in training those of the batch
//                   (two numbers a channel, kept), else the running ones
//   instance_norm   per sample and channel, or the running ones
//   layer_norm      per row; group_norm: per sample and group
//
// An error grows by max sqrt(var + eps) / |w|, measured by the step in forward.
// Refused: a weight with a zero in the saved model, or one computed by a
// network that is not shown to differ from zero ("scale-maybe-zero"). Not
// matched: norms of unknown length of shape, rms_norm (what it divides by is
// lost with x's length, and keeping it takes a pass of its own).
#include "passes/analysis/Range.h"
#include "passes/rules/Match.h"
#include "passes/rules/WeightSolve.h"

#include <ATen/ops/eq.h>

namespace inv::opt {

using namespace torch::jit;

namespace {

/// The operands of any of the four norms.
struct Norm {
  Value *x = nullptr, *weight = nullptr, *bias = nullptr;
  Value *runningMean = nullptr, *runningVar = nullptr;
  Value* training = nullptr; ///< null: statistics of x, always
  Value* eps = nullptr;
  enum class Of { Batch, Instance, Group, Row } of = Of::Batch;
  Value* groups = nullptr;
  int64_t rowDims = 0; ///< of a layer norm
};

Value* orNull(Value* v) { return isNone(v) ? nullptr : v; }

std::optional<int64_t> lengthOf(Value* list) {
  if (auto ints = constantInts(list))
    return int64_t(ints->size());
  if (list->node()->kind() == prim::ListConstruct)
    return int64_t(list->node()->inputs().size());
  return std::nullopt;
}

std::optional<Norm> matchNorm(Node* n) {
  static const Symbol groupNorm = Symbol::fromQualString("aten::group_norm");
  Norm m;
  if (n->inputs().size() < 5)
    return std::nullopt;
  m.x = n->input(0);
  if (n->kind() == aten::batch_norm || n->kind() == aten::instance_norm) {
    m.of = n->kind() == aten::batch_norm ? Norm::Of::Batch : Norm::Of::Instance;
    m.weight = orNull(n->input(1));
    m.bias = orNull(n->input(2));
    m.runningMean = orNull(n->input(3));
    m.runningVar = orNull(n->input(4));
    m.training = n->input(5);
    m.eps = n->input(7);
    const std::optional<bool> ofInput = constantBool(m.training);
    if (ofInput == true)
      m.training = nullptr;
    // By the running statistics an instance norm is a batch norm.
    if (m.of == Norm::Of::Instance && m.training) {
      if (!ofInput)
        return std::nullopt;
      m.of = Norm::Of::Batch;
    }
    const bool runs = m.runningMean && m.runningVar;
    return m.training && !runs ? std::nullopt : std::optional(m);
  }
  if (n->kind() == aten::layer_norm) {
    const auto dims = lengthOf(n->input(1));
    if (!dims)
      return std::nullopt;
    m.of = Norm::Of::Row;
    m.rowDims = *dims;
    m.weight = orNull(n->input(2));
    m.bias = orNull(n->input(3));
    m.eps = n->input(4);
    return m;
  }
  if (n->kind() != groupNorm)
    return std::nullopt;
  m.of = Norm::Of::Group;
  m.groups = n->input(1);
  m.weight = orNull(n->input(2));
  m.bias = orNull(n->input(3));
  m.eps = n->input(4);
  return m;
}

using Lookup = InverseBuilder::Lookup;

Value* list(Graph& g, const std::vector<Value*>& values) {
  return g.insertNode(g.createList(c10::TensorType::get(), values))->output();
}

/// [mean, var] of the batch, as the norm itself finds them.
Value* batchStatistics(Graph& g, Value* x) {
  static const Symbol update =
      Symbol::fromQualString("aten::batch_norm_update_stats");
  Value* none = g.insertConstant(c10::IValue());
  Node* both = g.insert(update, {x, none, none, 0.0})->node();
  return g.insert(aten::stack, {list(g, {both->input(0), both->input(1)}), 0});
}

/// [mean, var] over `dims`, which stay as ones.
Value* statisticsOver(Graph& g, Value* x, std::vector<int64_t> dims) {
  Node* both =
      g.insert(
           Symbol::fromQualString("aten::var_mean"), {x, std::move(dims)},
           {NamedValue("correction", int64_t(0)), NamedValue("keepdim", true)})
          ->node();
  return g.insert(aten::stack, {list(g, {both->input(1), both->input(0)}), 0});
}

/// A view in which dimension 0 and 1 are one, as instance norm sees x.
Value* samplesAsChannels(Graph& g, Value* x) {
  return g.insert(aten::unsqueeze, {g.insert(aten::flatten, {x, 0, 1}), 0});
}

/// [samples, groups, everything else].
Value* inGroups(Graph& g, Value* x, Value* groups) {
  Value* rest = g.insertConstant(-1);
  Value* sizes =
      g.insertNode(g.createList(c10::IntType::get(), {groups, rest}))->output();
  return g.insert(aten::flatten, {g.insert(aten::unflatten, {x, 1, sizes}), 2});
}

Value* statisticsOf(Graph& g, const Norm& m, Value* x, const Lookup& at) {
  switch (m.of) {
  case Norm::Of::Batch:
    return batchStatistics(g, x);
  case Norm::Of::Instance:
    return batchStatistics(g, samplesAsChannels(g, x));
  case Norm::Of::Group:
    return statisticsOver(g, inGroups(g, x, at(m.groups)), {2});
  case Norm::Of::Row:
    break;
  }
  std::vector<int64_t> dims;
  for (int64_t i = 1; i <= m.rowDims; ++i)
    dims.push_back(-i);
  return statisticsOver(g, x, dims);
}

/// [mean, var] as this call uses them.
Value* recordStatistics(InverseBuilder& b, const Norm& m) {
  return b.recorded(m.x, "statistics", [m](Graph& g, const Lookup& at) {
    if (!m.training)
      return statisticsOf(g, m, at(m.x), at);
    const auto running = [&] {
      return g.insert(aten::stack,
                      {list(g, {at(m.runningMean), at(m.runningVar)}), 0});
    };
    if (constantBool(m.training) == false)
      return running();
    Node* choice = g.insertNode(g.create(prim::If, {at(m.training)}, 1));
    choice->output()->setType(c10::TensorType::get());
    for (bool ofBatch : {true, false}) {
      Block* block = choice->addBlock();
      WithInsertPoint inside(block);
      block->registerOutput(ofBatch ? statisticsOf(g, m, at(m.x), at)
                                    : running());
    }
    return choice->output();
  });
}

Value* channelsLast(Graph& g, Value* v) {
  return g.insert(aten::movedim, {v, 1, -1});
}
Value* channelsBack(Graph& g, Value* v) {
  return g.insert(aten::movedim, {v, -1, 1});
}

Value* deviation(Graph& g, Value* statistics, Value* eps) {
  Value* var = g.insert(aten::select, {statistics, 0, 1});
  return g.insert(aten::sqrt, {g.insert(aten::add, {var, eps, 1})});
}

/// y without weight and bias, which are a channel's each (layer norm: an
/// element's).
Value* withoutAffine(InverseBuilder& b, const Norm& m) {
  Graph& g = b.graph();
  Value* u = b.result(0);
  if (!m.weight && !m.bias)
    return u;
  const bool channels = m.of != Norm::Of::Row;
  if (channels)
    u = channelsLast(g, u);
  if (m.bias)
    u = g.insert(aten::sub, {u, b.operand(m.bias)});
  if (m.weight)
    u = g.insert(aten::div, {u, b.operand(m.weight)});
  return channels ? channelsBack(g, u) : u;
}

Value* undo(InverseBuilder& b, const Norm& m) {
  Graph& g = b.graph();
  Value* u = withoutAffine(b, m);
  Value* statistics = recordStatistics(b, m);
  Value* mean = g.insert(aten::select, {statistics, 0, 0});
  Value* scale = deviation(g, statistics, b.operand(m.eps));
  const auto back = [&](Value* v) {
    return g.insert(aten::add, {g.insert(aten::mul, {v, scale}), mean});
  };
  switch (m.of) {
  case Norm::Of::Row:
    return back(u);
  case Norm::Of::Batch:
    return channelsBack(g, back(channelsLast(g, u)));
  case Norm::Of::Instance:
    u = channelsBack(g, back(channelsLast(g, samplesAsChannels(g, u))));
    break;
  case Norm::Of::Group:
    u = back(inGroups(g, u, b.operand(m.groups)));
    break;
  }
  return g.insert(aten::reshape, {u, b.sizesOf(m.x)});
}

Value* growthOf(InverseBuilder& b, const Norm& m) {
  Graph& g = b.graph();
  Value* scale = deviation(g, recordStatistics(b, m), b.operand(m.eps));
  if (!m.weight)
    return g.insert(aten::max, {scale});
  Value* weight = g.insert(aten::abs, {b.operand(m.weight)});
  if (m.of == Norm::Of::Batch) // channel by channel
    return g.insert(aten::max, {g.insert(aten::div, {scale, weight})});
  return g.insert(
      aten::div, {g.insert(aten::max, {scale}), g.insert(aten::min, {weight})});
}

/// Why the weight may be zero; empty where it is shown that it is not.
std::optional<std::string> whyZero(Value* weight, const RuleContext& context) {
  const ValueId w = context.flow.idOf(weight);
  if (w < 0 || context.flow.value(w).isActivation())
    return rangeOf(weight).excludesZero() ? std::nullopt
                                          : std::optional(nameOf(weight));
  const auto saved = savedValue(weight, context);
  if (!saved)
    return nameOf(weight);
  return at::eq(*saved, 0).any().item<bool>()
             ? std::optional<std::string>("the weight has a zero")
             : std::nullopt;
}

} // namespace

void normalisationRule(NodeId id, const RuleContext& context,
                       std::vector<Candidate>& out) {
  const Dataflow& flow = context.flow;
  Node* n = flow.node(id).node;
  const std::optional<Norm> m =
      n->kind().is_aten() ? matchNorm(n) : std::nullopt;
  if (!m)
    return;
  const ValueId x = flow.idOf(m->x);
  if (x < 0 || !flow.value(x).isActivation())
    return;
  Candidate c;
  c.rule = "normalisation";
  c.cls = RuleClass::Normalisation;
  c.solved = {x};
  c.quiet = true;
  if (m->weight)
    if (auto why = whyZero(m->weight, context)) {
      c.refused = Reason::ScaleMaybeZero;
      c.detail = std::move(*why);
      out.push_back(std::move(c));
      return;
    }
  c.refused =
      arithmeticProblem(flow.value(x), flow.value(flow.idOf(n->output())));
  for (Value* v : {m->weight, m->bias})
    if (v)
      c.others.push_back(flow.idOf(v));
  c.needsSizes = true;
  c.emit = [m = *m](InverseBuilder& b) {
    return std::vector<Value*>{undo(b, m)};
  };
  c.growth = [m = *m](InverseBuilder& b) { return growthOf(b, m); };
  out.push_back(std::move(c));
}

} // namespace inv::opt
