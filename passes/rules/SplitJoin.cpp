// Cutting a tensor into pieces, and joining pieces.
//
//   y... = chunk / split / split_with_sizes / tensor_split (x, ..., d)
//                              => x = cat([y...], d)
//   y... = hsplit / vsplit / dsplit (x, ...) => x = hstack / vstack / dstack
//   y... = unbind(x, d)        => x = stack([y...], d)
//   y = cat([x...], d)         => x... = split_with_sizes(y, sizes of x at d)
//   y = stack([x...], d)       => x... = unbind(y, d)
//
// Exact. All pieces must be there to undo a split: a piece that nothing keeps
// and nothing rebuilds (one half dropped) means that x is lost. Not matched:
// lists of unknown length, dimensions that are not constants, cat of a list
// that names one tensor twice.
#include "passes/rules/Match.h"

#include <string>
#include <unordered_set>

namespace inv::opt {

using namespace torch::jit;

namespace {

/// The join of a split whose dimension depends on how many x has.
const char* joinOf(const Node* n) {
  const std::string name = n->kind().toUnqualString();
  return name == "hsplit"   ? "aten::hstack"
         : name == "vsplit" ? "aten::vstack"
         : name == "dsplit" ? "aten::dstack"
                            : nullptr;
}

const Value* dimArgument(const Node* n) {
  if (n->kind() == aten::unbind)
    return n->input(1);
  return n->inputs().back();
}

void splitCandidate(const Dataflow& flow, NodeId id, std::optional<int64_t> dim,
                    std::vector<Candidate>& out) {
  const NodeInfo& info = flow.node(id);
  const bool unbind = info.node->kind() == aten::unbind;
  const char* join = joinOf(info.node);
  for (ValueId piece : info.results)
    if (!isTensor(flow.value(piece)))
      return; // the list is not unpacked: its length is unknown
  Candidate c;
  c.rule = unbind ? "unbind" : "split";
  c.cls = RuleClass::Free;
  c.solved = {flow.idOf(info.node->input(0))};
  const size_t count = info.results.size();
  c.emit = [count, dim, unbind,
            join](InverseBuilder& b) -> std::vector<Value*> {
    Graph& g = b.graph();
    std::vector<Value*> pieces;
    for (size_t i = 0; i < count; ++i)
      pieces.push_back(b.result(i));
    Value* list =
        g.insertNode(g.createList(c10::TensorType::get(), pieces))->output();
    if (join)
      return {g.insert(Symbol::fromQualString(join), {list})};
    return {g.insert(unbind ? aten::stack : aten::cat, {list, *dim})};
  };
  out.push_back(std::move(c));
}

void joinCandidate(const Dataflow& flow, NodeId id, int64_t dim, bool stack,
                   std::vector<Candidate>& out) {
  const NodeInfo& info = flow.node(id);
  Node* list = info.node->input(0)->node();
  if (list->kind() != prim::ListConstruct)
    return;
  Candidate c;
  c.needsSizes = !stack;
  c.rule = stack ? "stack" : "join";
  c.cls = RuleClass::Free;
  std::vector<Value*> parts(list->inputs().begin(), list->inputs().end());
  std::vector<size_t> which;
  for (size_t i = 0; i < parts.size(); ++i) {
    const ValueId part = flow.idOf(parts[i]);
    if (part < 0)
      return;
    if (!flow.value(part).isActivation())
      continue;
    if (std::find(c.solved.begin(), c.solved.end(), part) != c.solved.end())
      return; // the same tensor twice
    c.solved.push_back(part);
    which.push_back(i);
  }
  if (c.solved.empty())
    return;
  c.emit = [parts, which, dim, stack](InverseBuilder& b) {
    Graph& g = b.graph();
    Value* pieces = nullptr;
    if (stack) {
      pieces = g.insert(aten::unbind, {b.result(0), dim});
    } else {
      std::vector<Value*> sizes;
      sizes.reserve(parts.size());
      for (Value* part : parts)
        sizes.push_back(b.sizeOf(part, dim));
      Value* list =
          g.insertNode(g.createList(c10::IntType::get(), sizes))->output();
      pieces = g.insert(aten::split_with_sizes, {b.result(0), list, dim});
    }
    Node* unpack = g.insertNode(g.createListUnpack(pieces, parts.size()));
    std::vector<Value*> solved;
    solved.reserve(which.size());
    for (size_t i : which)
      solved.push_back(unpack->output(i));
    return solved;
  };
  out.push_back(std::move(c));
}

} // namespace

void splitJoinRule(NodeId id, const RuleContext& context,
                   std::vector<Candidate>& out) {
  const Dataflow& flow = context.flow;
  const NodeInfo& info = flow.node(id);
  static const std::unordered_set<Symbol> splits = {
      aten::chunk,
      aten::split,
      aten::split_with_sizes,
      aten::tensor_split,
      aten::unbind,
      Symbol::fromQualString("aten::unsafe_chunk"),
      Symbol::fromQualString("aten::unsafe_split"),
      Symbol::fromQualString("aten::unsafe_split_with_sizes")};
  const bool byName = info.node->kind().is_aten() && joinOf(info.node);
  const bool split = byName || splits.count(info.node->kind()) != 0;
  const bool join =
      info.node->kind() == aten::cat || info.node->kind() == aten::stack;
  if (!split && !join)
    return;
  const std::optional<int64_t> dim =
      byName ? std::nullopt : constantInt(dimArgument(info.node));
  if (!dim && !byName)
    return;
  if (join)
    return joinCandidate(flow, id, *dim, info.node->kind() == aten::stack, out);
  const ValueId x = flow.idOf(info.node->input(0));
  if (x >= 0 && flow.value(x).isActivation())
    splitCandidate(flow, id, dim, out);
}

} // namespace inv::opt
