// Pieces written into a fresh tensor (transforms/GatherWrites).
//
//   y = empty_like(x); y[:, ::2] = a; y[:, 1::2] = b     a = y[:, ::2]
//                                                         b = y[:, 1::2]
//   y = zeros(n, 4); y[:, index] = a                      a = y[:, index]
//
// Exact. Each piece is read back from its place, if no later one overwrites it:
// the places differ in a constant slice, selection or index, or are cut at one
// bound (y[:, :k], y[:, k:]). What no piece covers is no state and does not
// matter. A piece that is broadcast over its place, or of another dtype, and
// indices that name a place twice are noticed by the step in forward.
// Not matched: pieces that overlap; indices that the method computes from its
// input.
#include "passes/support/Written.h"
#include "passes/analysis/Elements.h"
#include "passes/rules/Match.h"
#include "passes/rules/Support.h"

namespace inv::opt {

using namespace torch::jit;

namespace {

bool sameBound(Value* a, Value* b) {
  if (a == b)
    return true;
  const auto x = constantInt(a), y = constantInt(b);
  return x && y && *x == *y;
}

/// One begins where the other ends, wherever that is.
bool cutAtOneBound(const PlaceView& a, const PlaceView& b) {
  const auto follow = [](const PlaceView& left, const PlaceView& right) {
    return !isNone(left.end) && !isNone(right.start) &&
           sameBound(left.end, right.start);
  };
  return a.kind == PlaceView::Kind::Slice && b.kind == a.kind &&
         sameBound(a.dim, b.dim) && (follow(a, b) || follow(b, a));
}

bool sameView(const PlaceView& a, const PlaceView& b,
              const RuleContext& context) {
  const auto x = elementsOf(a, context), y = elementsOf(b, context);
  return a.kind == b.kind && x && y && *x == *y;
}

/// No element is in both places.
bool apart(const WrittenPiece& a, const WrittenPiece& b,
           const RuleContext& context) {
  for (size_t i = 0; i < a.place.size() && i < b.place.size(); ++i) {
    const PlaceView &u = a.place[i], &v = b.place[i];
    const auto x = elementsOf(u, context), y = elementsOf(v, context);
    if ((x && y && disjoint(*x, *y)) || cutAtOneBound(u, v))
      return true;
    // Behind two different selections dimensions may mean different things.
    const bool selects =
        u.kind == PlaceView::Kind::Select || v.kind == PlaceView::Kind::Select;
    if (selects && !sameView(u, v, context))
      return false;
  }
  return false;
}

bool hasIndices(const WrittenPiece& piece) {
  return !piece.place.empty() &&
         piece.place.back().kind == PlaceView::Kind::Index;
}

Value* readBack(InverseBuilder& b, const WrittenPiece& piece) {
  return insertPlace(b.graph(), b.result(0), piece.place,
                     [&b](Value* v) { return b.operand(v); });
}

/// 0 where the place has other sizes than the piece.
Value* fits(InverseBuilder& b, const WrittenPiece& piece) {
  Graph& g = b.graph();
  Value* sizes = g.insert(aten::size, {readBack(b, piece)});
  return g.insert(aten::Int,
                  {g.insert(aten::eq, {b.sizesOf(piece.value), sizes})});
}

/// 0 where the indices of all pieces together name a place twice.
Value* namesOnce(InverseBuilder& b, const std::vector<Value*>& indices) {
  Graph& g = b.graph();
  std::vector<Value*> all;
  all.reserve(indices.size());
  for (Value* one : indices)
    all.push_back(b.operand(one));
  Value* list =
      g.insertNode(g.createList(c10::TensorType::get(), all))->output();
  Value* joined = g.insert(aten::cat, {list, 0});
  Value* sorted = g.insert(aten::sort, {joined})->node()->input(0);
  Value* different =
      g.insert(aten::ne, {g.insert(aten::slice, {sorted, 0, 1, kOpenEnd, 1}),
                          g.insert(aten::slice, {sorted, 0, 0, -1, 1})});
  return g.insert(aten::to,
                  {g.insert(aten::all, {different}), int64_t(at::kFloat)});
}

} // namespace

void writtenRule(NodeId id, const RuleContext& context,
                 std::vector<Candidate>& out) {
  const Dataflow& flow = context.flow;
  Node* n = flow.node(id).node;
  if (n->kind() != writtenSymbol())
    return;
  const Written w = writtenOf(n);
  std::vector<WrittenPiece> kept;
  std::vector<Value*> indices;
  for (const WrittenPiece& piece : w.pieces)
    if (hasIndices(piece))
      indices.push_back(piece.place.back().indices);
  Candidate c;
  c.rule = "written";
  c.cls = RuleClass::Free;
  c.needsSizes = c.sizesOptional = true;
  for (size_t i = 0; i < w.pieces.size(); ++i) {
    const WrittenPiece& piece = w.pieces[i];
    const ValueId x = flow.idOf(piece.value);
    if (x < 0 || !flow.value(x).isActivation() ||
        std::find(c.solved.begin(), c.solved.end(), x) != c.solved.end())
      continue;
    if (hasIndices(piece) && !elementsOf(piece.place.back(), context))
      continue;
    bool overwritten = false;
    for (size_t j = i + 1; j < w.pieces.size(); ++j)
      overwritten |= !apart(piece, w.pieces[j], context);
    // Of a copy that one piece overwrites in part the rest.
    std::optional<Elements> rest;
    if (overwritten && piece.place.empty() && i + 2 == w.pieces.size() &&
        w.pieces.back().place.size() == 1)
      if (auto gone = elementsOf(w.pieces.back().place[0], context))
        rest = complement(*gone);
    if (overwritten && !rest)
      continue;
    kept.push_back(piece);
    c.solved.push_back(x);
    c.elements.push_back(rest.value_or(Elements{}));
  }
  if (kept.empty())
    return;
  if (std::all_of(c.elements.begin(), c.elements.end(),
                  [](const Elements& e) { return e.isWhole(); }))
    c.elements.clear();
  c.emit = [kept](InverseBuilder& b) {
    std::vector<Value*> solved;
    solved.reserve(kept.size());
    for (const WrittenPiece& piece : kept)
      solved.push_back(readBack(b, piece));
    return solved;
  };
  const bool looks = std::any_of(kept.begin(), kept.end(), hasIndices);
  for (Value* one : indices)
    if (looks)
      c.others.push_back(flow.idOf(one));
  c.growth = [kept, indices, looks](InverseBuilder& b) {
    Graph& g = b.graph();
    Value* sizes = nullptr;
    for (const WrittenPiece& piece : kept) {
      if (!b.isOutside(piece.value))
        continue; // it comes from a place of these very sizes
      Value* one = fits(b, piece);
      sizes = sizes ? g.insert(aten::mul, {sizes, one}) : one;
    }
    if (!sizes)
      sizes = g.insertConstant(int64_t(1));
    Value* holds = g.insert(aten::scalar_tensor, {sizes});
    return looks ? g.insert(aten::mul, {namesOnce(b, indices), holds}) : holds;
  };
  out.push_back(std::move(c));
}

} // namespace inv::opt
