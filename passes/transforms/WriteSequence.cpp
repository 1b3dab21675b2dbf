#include "passes/transforms/WriteSequence.h"

#include "passes/support/GraphUtil.h"
#include "passes/transforms/Functionalize.h"

#include <algorithm>
#include <set>
#include <string>

namespace inv::opt {

using namespace torch::jit;

namespace {

/// More pieces than a person writes down are a loop's, each a copy kept alive.
constexpr size_t kMostPieces = 64;
/// Copies of all that is written so far, for writes that read it.
constexpr int kMostCopies = 4;

bool isTensor(const Value* v) {
  return v->type()->isSubtypeOf(*c10::TensorType::get());
}

std::string nameOfKind(const Node* n) {
  return n->kind().is_aten() ? n->kind().toUnqualString() : "";
}

/// Reads no element.
bool readsShape(const Node* n) {
  static const std::set<std::string> names = {"size",       "dim",
                                              "numel",      "len",
                                              "stride",     "is_floating_point",
                                              "zeros_like", "empty_like",
                                              "ones_like",  "is_contiguous"};
  return names.count(nameOfKind(n)) || n->kind() == prim::dtype ||
         n->kind() == prim::device;
}

std::optional<PlaceView> viewOf(Node* n) {
  const std::string name = nameOfKind(n);
  PlaceView view;
  if (name == "slice" && n->inputs().size() == 5) {
    view.dim = n->input(1);
    view.start = n->input(2);
    view.end = n->input(3);
    view.step = n->input(4);
    if (constantInt(view.step).value_or(0) < 1)
      return std::nullopt;
    return view;
  }
  if (name == "select" && n->inputs().size() == 3 &&
      n->input(2)->type()->kind() == c10::TypeKind::IntType) {
    view.kind = PlaceView::Kind::Select;
    view.dim = n->input(1);
    view.start = n->input(2);
    return view;
  }
  return std::nullopt;
}

/// Slices of everything say nothing about the place.
bool isIdentity(const PlaceView& view) {
  const auto bound = [](Value* v, int64_t otherwise) {
    return isNone(v) ? std::optional<int64_t>(otherwise) : constantInt(v);
  };
  return view.kind == PlaceView::Kind::Slice && bound(view.start, 0) == 0 &&
         bound(view.end, kOpenEnd) == kOpenEnd && constantInt(view.step) == 1;
}

} // namespace

Maker makerOf(const Node* n) {
  static const std::set<std::string> empty = {"empty", "empty_like",
                                              "new_empty", "empty_strided"};
  static const std::set<std::string> filled = {
      "zeros",     "ones",     "full",     "zeros_like", "ones_like",
      "full_like", "new_full", "new_ones", "new_zeros"};
  const std::string name = nameOfKind(n);
  if (empty.count(name))
    return Maker::Empty;
  if (filled.count(name))
    return Maker::Filled;
  return name == "clone" ? Maker::Clone : Maker::None;
}

bool sameNumber(Value* a, Value* b, int64_t none) {
  if (a == b)
    return true;
  const auto x = isNone(a) ? none : constantInt(a);
  const auto y = isNone(b) ? none : constantInt(b);
  return x && y && *x == *y;
}

bool samePlace(const Place& a, const Place& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const PlaceView& x, const PlaceView& y) {
                      if (x.kind != y.kind || !sameNumber(x.dim, y.dim, 0))
                        return false;
                      if (x.kind == PlaceView::Kind::Index)
                        return x.indices == y.indices;
                      return sameNumber(x.start, y.start, 0) &&
                             (x.kind == PlaceView::Kind::Select ||
                              (sameNumber(x.end, y.end, kOpenEnd) &&
                               sameNumber(x.step, y.step, 1)));
                    });
}

std::optional<size_t> dimOfPut(Node* n) {
  Node* list = n->input(1)->node();
  if (list->kind() != prim::ListConstruct || list->inputs().empty() ||
      constantBool(n->input(3)) != false)
    return std::nullopt;
  const size_t last = list->inputs().size() - 1;
  for (size_t i = 0; i <= last; ++i)
    if (isNone(list->input(i)) != (i < last))
      return std::nullopt;
  return last;
}

Value* namedOperand(Node* n, const char* name) {
  const auto& arguments = n->schema().arguments();
  for (size_t i = 0; i < arguments.size(); ++i)
    if (arguments[i].name() == name)
      return n->input(i);
  return nullptr;
}

namespace {

/// Looks at one tensor and its writes.
class Finder {
public:
  Finder(Value* tensor, const StorageGroups& groups)
      : block_(tensor->node()->owningBlock()), groups_(groups) {
    found_.tensor = tensor;
    found_.maker = makerOf(tensor->node());
  }

  std::optional<WriteSequence> run() {
    if (!collect())
      return std::nullopt;
    for (Node* n : nodes_)
      if (!look(n))
        return std::nullopt;
    if (copies_ > kMostCopies || found_.writes.size() > kMostPieces)
      return std::nullopt;
    return std::move(found_);
  }

private:
  bool collect();
  bool look(Node* n);
  bool lookAtWrite(Node* n);
  bool lookAtArithmetic(Node* n);
  bool staysAsItIs(Value* piece) const;

  bool isAlias(const Value* v) const { return found_.places.count(v) != 0; }

  WriteSequence found_;
  Block* block_;
  const StorageGroups& groups_;
  std::vector<Node*> nodes_; ///< in this block, up to the last write
  Node* lastWrite_ = nullptr;
  int copies_ = 0;
};

/// The nodes that touch the tensor before the last write; false where some
/// alias is not one of its views.
bool Finder::collect() {
  if (groups_.isExternal(found_.tensor))
    return false;
  Node* maker = found_.tensor->node();
  if (found_.maker == Maker::Clone && !staysAsItIs(maker->input(0)))
    return false;
  if (Value* pinned = namedOperand(maker, "pin_memory");
      pinned && !isNone(pinned) && constantBool(pinned) != false)
    return false;
  std::set<Node*> nodes, inner;
  for (Value* member : groups_.members(found_.tensor)) {
    Node* home = ancestorIn(member->node(), block_);
    if (!home)
      return false;
    if (member->node()->owningBlock() != block_)
      inner.insert(home);
    for (const Use& use : member->uses()) {
      Node* at = ancestorIn(use.user, block_);
      if (!at)
        return false;
      nodes.insert(at);
      if (at == use.user && writesOperand(at) && use.offset == 0 &&
          (!lastWrite_ || lastWrite_->isBefore(at)))
        lastWrite_ = at;
    }
  }
  if (!lastWrite_)
    return false;
  // What ifs and loops make of it behind the last write is theirs.
  for (Node* n : inner)
    if (!lastWrite_->isBefore(n))
      return false;
  for (Node* n : nodes)
    if (n != block_->return_node() && !lastWrite_->isBefore(n))
      nodes_.push_back(n);
  std::sort(nodes_.begin(), nodes_.end(),
            [](Node* a, Node* b) { return a != b && a->isBefore(b); });
  found_.places[found_.tensor] = {};
  return true;
}

bool Finder::look(Node* n) {
  if (n == found_.tensor->node() || readsShape(n))
    return true;
  if (writesOperand(n))
    return lookAtWrite(n);
  if (n->outputs().size() != 1 || !isAlias(n->input(0)))
    return false;
  auto view = viewOf(n);
  if (!view)
    return false;
  for (size_t i = 1; i < n->inputs().size(); ++i)
    if (isAlias(n->input(i)))
      return false;
  Place place = found_.places.at(n->input(0));
  if (!isIdentity(*view))
    place.push_back(*view);
  found_.places[n->output()] = std::move(place);
  return true;
}

/// The piece's own storage is not written later.
bool Finder::staysAsItIs(Value* piece) const {
  return !groups_.knows(piece) || !groups_.isWritten(piece);
}

bool Finder::lookAtWrite(Node* n) {
  if (n->outputs().size() != 1 || n->inputs().empty() || !isAlias(n->input(0)))
    return false;
  found_.writes.push_back(n);
  found_.places[n->output()] = found_.places.at(n->input(0));
  const std::string name = nameOfKind(n);
  if (name == "copy_") {
    if (isAlias(n->input(1))) {
      copies_ += !samePlace(found_.places.at(n->input(1)),
                            found_.places.at(n->input(0)));
      return true;
    }
    return staysAsItIs(n->input(1));
  }
  if (name == "fill_" || name == "zero_")
    return n->inputs().size() < 2 || !isTensor(n->input(1));
  if (name == "index_put_") {
    if (n->inputs().size() != 4 || isAlias(n->input(2)) ||
        !staysAsItIs(n->input(2)))
      return false;
    return dimOfPut(n).has_value();
  }
  return lookAtArithmetic(n);
}

/// y[place] += f: reads what is there.
bool Finder::lookAtArithmetic(Node* n) {
  if (!outOfPlace(n))
    return false;
  // The result is saved: autograd refuses a write behind it.
  const bool savesResult =
      n->inputs().size() == 1 ||
      std::none_of(n->inputs().begin() + 1, n->inputs().end(),
                   [](Value* v) { return isTensor(v); });
  const std::string name = nameOfKind(n);
  const bool linear = name == "add_" || name == "sub_" || name == "neg_" ||
                      name == "mul_" || name == "div_";
  if (savesResult && !linear && n != lastWrite_)
    return false;
  for (size_t i = 1; i < n->inputs().size(); ++i)
    if (isTensor(n->input(i)) && isAlias(n->input(i)))
      return false;
  const Place& place = found_.places.at(n->input(0));
  // What was written to this very place, by arithmetic, is at hand, and so is
  // a piece of the tensor that was copied; the rest takes a copy.
  bool fresh = found_.maker == Maker::Clone;
  for (Node* earlier : found_.writes) {
    if (earlier == n)
      break;
    fresh = samePlace(found_.places.at(earlier->output()), place) &&
            outOfPlace(earlier).has_value();
  }
  copies_ += !fresh;
  return true;
}

} // namespace

std::optional<WriteSequence> findWrites(Value* tensor,
                                        const StorageGroups& groups) {
  return Finder(tensor, groups).run();
}

} // namespace inv::opt
