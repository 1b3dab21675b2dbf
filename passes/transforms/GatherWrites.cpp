// Writes into a fresh tensor as one value.
//
//   %y = aten::empty_like(%x, ...)           %y = inv_opt::written([%a, %b],
//   %s = aten::slice(%y, 1, 0, max, 2)   ==>        [places], sizes, ...)
//   %c = aten::copy_(%s, %a, False)          ... readers of %y
//   %t = aten::slice(%y, 1, 1, max, 2)
//   %d = aten::copy_(%t, %b, False)
//   ... readers of %y
//
// Which elements of y are whose is then one node's business (rules/Written),
// and not that of a sequence of effects. What is written in arithmetic (y[:,
// :k] += f) becomes an operator on the piece and a write of its result; a copy
// that is overwritten in part (y = x.clone(); y[:, :k] = a) becomes pieces of x
// beside the new ones, where slices can say what is left of it.
//
// Why it is sound. The operator writes the same pieces in the same order into a
// tensor of the same sizes, strides, dtype and device, so its values are the
// same, bit for bit, and so are the gradients of the pieces. All of this must
// hold:
//   storage   the tensor was made in the same block by an operator that gives
//             new storage and saves nothing of it; it has no alias but views
//             (slice, select) that were made of it here, and results of writes;
//   readers   until the last write nobody reads it but for its shape, by
//             arithmetic on the view that is written, and by copies from one
//             place of it to another; what reads it later reads the new value;
//   pieces    no piece is itself written after it was copied;
//   autograd  the operators in between save none of it (see Functionalize).
// Sizes and strides are those of the tensor that the model would have made,
// read off one without memory (device "meta"), so that nothing is baked in.
//
// Left alone: writes by scatter, masked_scatter_ and the like; indices with
// more than one tensor; accumulating index_put_; writes inside of ifs and
// loops; tensors whose writes read what was written before in more than a few
// places (each takes a copy).
#include "passes/transforms/GatherWrites.h"

#include "passes/support/GraphUtil.h"
#include "passes/transforms/Functionalize.h"
#include "passes/transforms/LayoutSensitivity.h"
#include "passes/transforms/WriteSequence.h"

#include <algorithm>
#include <set>
#include <string>

namespace inv::opt {

using namespace torch::jit;

namespace {

bool isTensor(const Value* v) {
  return v->type()->isSubtypeOf(*c10::TensorType::get());
}

std::string nameOfKind(const Node* n) {
  return n->kind().is_aten() ? n->kind().toUnqualString() : "";
}

/// Replaces the writes of one tensor by the value that they make.
class Gatherer {
public:
  explicit Gatherer(WriteSequence sequence)
      : sequence_(std::move(sequence)),
        block_(sequence_.tensor->node()->owningBlock()),
        graph_(*sequence_.tensor->owningGraph()) {}

  void run();

private:
  void write(Node* n);
  void addPiece(Place place, Value* value, bool exact);
  Value* contentOf(const Place& place, Node* reader, bool insensitive);
  Value* gathered();
  void readMetadata();
  void keepRestOfCopy(Written& w) const;
  void hand(Value* whole);
  Value* viewBehind(Value* view, Value* whole);

  const WriteSequence sequence_;
  Block* block_;
  Graph& graph_;

  struct Piece {
    WrittenPiece written;
    bool exact = false; ///< of the place's own sizes and dtype
  };
  std::vector<Piece> pieces_;
  Written meta_;
  Value* base_ = nullptr; ///< what is there before the pieces
  std::unordered_map<Value*, Value*> behind_;
};

void Gatherer::readMetadata() {
  // The same maker on the device without memory.
  Node* maker = sequence_.tensor->node();
  WithInsertPoint guard(maker->next());
  Value* none = graph_.insertConstant(c10::IValue());
  Value* nowhere = graph_.insertConstant(c10::Device("meta"));
  Value* shape = nullptr;
  if (sequence_.maker == Maker::Clone) {
    // Its strides follow those of its operand, as empty_like's do.
    shape = graph_.insert(
        Symbol::fromQualString("aten::empty_like"), {maker->input(0)},
        {NamedValue("device", nowhere),
         NamedValue("memory_format",
                    maker->inputs().size() > 1 ? maker->input(1) : none)});
  } else {
    Node* twin = graph_.createClone(maker, [](Value* v) { return v; });
    const auto& arguments = maker->schema().arguments();
    for (size_t i = 0; i < arguments.size(); ++i)
      if (arguments[i].name() == "device")
        twin->replaceInput(i, nowhere);
    shape = graph_.insertNode(twin)->output();
  }
  shape->setType(c10::TensorType::get());
  meta_.sizes = graph_.insert(aten::size, {shape});
  meta_.strides =
      graph_.insert(Symbol::fromQualString("aten::stride"), {shape});
  meta_.dtype = graph_.insert(prim::dtype, {shape});
  meta_.device = namedOperand(maker, "device");
  if (!meta_.device || isNone(meta_.device))
    meta_.device = isTensor(maker->input(0))
                       ? graph_.insert(prim::device, {maker->input(0)})
                       : none;
  meta_.fill = none;
}

void Gatherer::addPiece(Place place, Value* value, bool exact) {
  // What is overwritten as a whole was never there.
  std::erase_if(pieces_, [&](const Piece& p) {
    return place.empty() || samePlace(p.written.place, place);
  });
  if (place.empty())
    base_ = nullptr;
  pieces_.push_back({{value, std::move(place)}, exact});
}

/// All that is written so far, as a value of its own at the insert point.
Value* Gatherer::gathered() {
  Written w = meta_;
  if (base_)
    w.pieces.push_back({base_, {}});
  for (const Piece& piece : pieces_)
    w.pieces.push_back(piece.written);
  if (base_)
    keepRestOfCopy(w);
  Value* whole = insertWritten(graph_, w)->output();
  whole->setType(c10::TensorType::get());
  return whole;
}

/// The piece 0 is a whole tensor that the others overwrite in part: what is
/// left of it, as slices, where all are slices along one dimension that are cut
/// at the same bounds or repeat with small steps.
void Gatherer::keepRestOfCopy(Written& w) const {
  if (w.pieces.size() < 2)
    return;
  const auto isSlice = [](const WrittenPiece& p) {
    return p.place.size() == 1 && p.place[0].kind == PlaceView::Kind::Slice;
  };
  if (!std::all_of(w.pieces.begin() + 1, w.pieces.end(), isSlice))
    return;
  const PlaceView first = w.pieces[1].place[0];
  std::vector<PlaceView> rest;
  const auto slice = [&](Value* start, Value* end, Value* step) {
    PlaceView view = first;
    view.start = start;
    view.end = end;
    view.step = step;
    rest.push_back(view);
  };
  const auto number = [&](int64_t n) { return graph_.insertConstant(n); };
  const auto constant = [](Value* v, int64_t none) {
    return isNone(v) ? std::optional<int64_t>(none) : constantInt(v);
  };
  if (w.pieces.size() == 2 && constantInt(first.step) == 1) {
    // [a, b): what is before a and behind b.
    if (constant(first.start, 0) != 0)
      slice(number(0), first.start, number(1));
    if (constant(first.end, kOpenEnd) != kOpenEnd)
      slice(first.end, number(kOpenEnd), number(1));
    const bool between = rest.size() == 2;
    const auto a = constant(first.start, 0), b = constant(first.end, 0);
    if (between && !(a && b && *a >= 0 && *b >= *a))
      return; // x[3:1] leaves all
  } else {
    // Every n-th place: the others.
    const auto step = constantInt(first.step);
    constexpr int64_t kMostSteps = 8;
    if (!step || *step > kMostSteps)
      return;
    std::vector<bool> taken(size_t(*step), false);
    for (size_t i = 1; i < w.pieces.size(); ++i) {
      const PlaceView& view = w.pieces[i].place[0];
      const auto start = constant(view.start, 0);
      if (!sameNumber(view.dim, first.dim, 0) ||
          constantInt(view.step) != step || !start || *start < 0 ||
          *start >= *step || constant(view.end, kOpenEnd) != kOpenEnd)
        return;
      taken[size_t(*start)] = true;
    }
    for (int64_t i = 0; i < *step; ++i)
      if (!taken[size_t(i)])
        slice(number(i), number(kOpenEnd), number(*step));
  }
  Value* source = w.pieces[0].value;
  const auto same = [](Value* v) { return v; };
  std::vector<WrittenPiece> pieces;
  pieces.reserve(rest.size());
  for (const PlaceView& view : rest)
    pieces.push_back({insertPlace(graph_, source, {view}, same), {view}});
  w.pieces.erase(w.pieces.begin());
  w.pieces.insert(w.pieces.begin(), pieces.begin(), pieces.end());
}

/// What is at the place now, at the insert point.
Value* Gatherer::contentOf(const Place& place, Node* reader, bool insensitive) {
  const auto same = [](Value* v) { return v; };
  if (!pieces_.empty() && pieces_.back().exact &&
      samePlace(pieces_.back().written.place, place))
    return pieces_.back().written.value;
  if (pieces_.empty() && base_) {
    // Where strides do not matter to the reader, from the tensor itself.
    Value* from = insensitive ? base_ : graph_.insert(aten::clone, {base_});
    from->setType(c10::TensorType::get());
    return insertPlace(graph_, from, place, same);
  }
  Value* now = gathered();
  now->node()->setSourceRange(reader->sourceRange());
  base_ = now;
  pieces_.clear();
  return insertPlace(graph_, now, place, same);
}

void Gatherer::write(Node* n) {
  WithInsertPoint guard(n);
  const Place place = sequence_.places.at(n->output());
  const std::string name = nameOfKind(n);
  if (name == "copy_") {
    Value* piece = n->input(1);
    if (const auto from = sequence_.places.find(piece);
        from != sequence_.places.end()) {
      if (!samePlace(from->second, place))
        addPiece(place, contentOf(from->second, n, /*insensitive=*/true),
                 false);
      return; // x[place] op= y ends with a copy of the place onto itself
    }
    return addPiece(place, piece, false);
  }
  if (name == "fill_" || name == "zero_") {
    Value* number =
        n->inputs().size() < 2 ? graph_.insertConstant(0.0) : n->input(1);
    // In float64, which holds what float32 rounds to.
    Value* piece = graph_.insert(aten::scalar_tensor, {number},
                                 {NamedValue("dtype", int64_t(at::kDouble))});
    return addPiece(place, piece, false);
  }
  if (name == "index_put_") {
    Place indexed = place;
    PlaceView view;
    view.kind = PlaceView::Kind::Index;
    view.dim = graph_.insertConstant(int64_t(*dimOfPut(n)));
    view.indices = n->input(1)->node()->inputs().back();
    indexed.push_back(view);
    return addPiece(indexed, n->input(2), false);
  }
  Node* made = createLike(n, *outOfPlace(n), n->inputs());
  made->output()->setType(n->output()->type());
  graph_.insertNode(made);
  Value* old = nullptr;
  {
    WithInsertPoint before(made);
    old =
        contentOf(place, n, layoutUse(Use(made, 0)) == LayoutUse::Insensitive);
  }
  made->replaceInput(0, old);
  Value* result = made->output();
  const bool promotes = std::any_of(n->inputs().begin() + 1, n->inputs().end(),
                                    [](Value* v) { return isTensor(v); });
  if (promotes) {
    Node* cast = createLike(n, aten::type_as, {result, old});
    cast->output()->setType(n->output()->type());
    result = graph_.insertNode(cast)->output();
  }
  addPiece(place, result, true);
}

/// The view that reads `whole` instead of the tensor.
Value* Gatherer::viewBehind(Value* view, Value* whole) {
  const Place& place = sequence_.places.at(view);
  if (place.empty())
    return whole;
  Value*& made = behind_[view];
  if (!made) {
    WithInsertPoint guard(whole->node()->next());
    made = insertPlace(graph_, whole, place, [](Value* v) { return v; });
    made->setType(view->type());
  }
  return made;
}

/// Readers behind the last write read the gathered value.
void Gatherer::hand(Value* whole) {
  std::vector<Value*> aliases;
  for (const auto& [alias, place] : sequence_.places)
    aliases.push_back(const_cast<Value*>(alias));
  // In program order, so that the graph does not depend on addresses.
  std::sort(aliases.begin(), aliases.end(), [](Value* a, Value* b) {
    return a->node() != b->node() && a->node()->isBefore(b->node());
  });
  for (Value* alias : aliases)
    for (const Use& use : std::vector<Use>(alias->uses())) {
      Node* at = ancestorIn(use.user, block_);
      if (at == block_->return_node() || sequence_.writes.back()->isBefore(at))
        use.user->replaceInput(use.offset, viewBehind(alias, whole));
    }
}

void Gatherer::run() {
  readMetadata();
  Node* maker = sequence_.tensor->node();
  if (sequence_.maker == Maker::Clone) {
    base_ = maker->input(0);
  } else if (sequence_.maker == Maker::Filled) {
    WithInsertPoint guard(maker->next());
    const std::string name = nameOfKind(maker);
    meta_.fill = namedOperand(maker, "fill_value");
    if (!meta_.fill)
      meta_.fill = graph_.insertConstant(
          int64_t(name.find("ones") != std::string::npos));
  }
  for (Node* n : sequence_.writes)
    write(n);
  Node* last = sequence_.writes.back();
  WithInsertPoint guard(last);
  Value* whole = gathered();
  whole->node()->setSourceRange(last->sourceRange());
  if (sequence_.tensor->hasDebugName() && !whole->hasDebugName()) {
    const std::string name = sequence_.tensor->debugName();
    sequence_.tensor->setDebugName("buffer");
    whole->setDebugName(name);
  }
  hand(whole);
  for (Node* n : sequence_.writes) {
    // What is left asks for shapes.
    n->output()->replaceAllUsesWith(n->input(0));
    n->destroy();
  }
}

/// Tensors with writes, in program order.
std::vector<Value*> tensorsIn(Block* block) {
  std::vector<Value*> found;
  for (Node* n : block->nodes()) {
    for (Block* inner : n->blocks())
      for (Value* v : tensorsIn(inner))
        found.push_back(v);
    if (n->outputs().size() == 1 && makerOf(n) != Maker::None &&
        isTensor(n->output()))
      found.push_back(n->output());
  }
  return found;
}

} // namespace

bool gatherWrites(Graph& graph) {
  bool changed = false;
  std::set<Value*> looked;
  for (bool again = true; again;) {
    again = false;
    const StorageGroups groups(graph, /*joinsApart=*/true);
    for (Value* tensor : tensorsIn(graph.block())) {
      if (!groups.isWritten(tensor) || !looked.insert(tensor).second)
        continue;
      std::optional<WriteSequence> sequence = findWrites(tensor, groups);
      if (!sequence)
        continue;
      Gatherer(*std::move(sequence)).run();
      // The groups are no longer true.
      again = changed = true;
      break;
    }
  }
  if (changed)
    removeDeadNodes(graph);
  return changed;
}

} // namespace inv::opt
