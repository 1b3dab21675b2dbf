#include "passes/support/Written.h"

#include "passes/support/GraphUtil.h"

#include <ATen/ops/copy.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/index.h>
#include <ATen/ops/index_put.h>
#include <torch/library.h>

namespace inv::opt {

using namespace torch::jit;

namespace {

/// What the operator is, for those who run a graph that holds it (tests, sample
/// inputs).
at::Tensor run(const std::vector<at::Tensor>& pieces,
               const std::vector<at::Tensor>& indices, at::IntArrayRef places,
               at::IntArrayRef sizes, at::IntArrayRef strides, int64_t dtype,
               std::optional<c10::Device> device,
               const std::optional<at::Scalar>& fill) {
  at::Tensor whole = at::empty_strided(
      sizes, strides,
      at::TensorOptions(static_cast<at::ScalarType>(dtype)).device(device));
  if (fill)
    whole.fill_(*fill);
  size_t at = 0;
  const auto next = [&] { return places.at(at++); };
  for (const at::Tensor& piece : pieces) {
    at::Tensor place = whole;
    bool done = false;
    for (int64_t views = next(); views > 0; --views) {
      const int64_t dim = next(), start = next(), end = next(), step = next();
      TORCH_CHECK(!done, "nothing can follow indices in a place");
      if (step > 0) {
        place = place.slice(dim, start, end, step);
      } else if (step == 0) {
        place = place.select(dim, start);
      } else {
        c10::List<std::optional<at::Tensor>> list;
        for (int64_t i = 0; i < dim; ++i)
          list.push_back(std::nullopt);
        list.push_back(indices.at(size_t(start)));
        place.index_put_(list, piece);
        done = true;
      }
    }
    if (!done)
      place.copy_(piece);
  }
  return whole;
}

TORCH_LIBRARY(inv_opt, m) {
  m.def("written(Tensor[] pieces, Tensor[] indices, int[] places, int[] sizes, "
        "int[] strides, int dtype, Device? device, Scalar? fill) -> Tensor");
  m.impl("written",
         torch::dispatch(c10::DispatchKey::CompositeImplicitAutograd, &run));
}

Value* list(Graph& g, const c10::TypePtr& type, at::ArrayRef<Value*> values) {
  return g.insertNode(g.createList(type, values))->output();
}

Value* indexList(Graph& g, Value* dim, Value* indices) {
  std::vector<Value*> entries;
  for (int64_t i = 0; i < constantInt(dim).value_or(0); ++i)
    entries.push_back(g.insertConstant(c10::IValue()));
  entries.push_back(indices);
  return list(g, c10::OptionalType::create(c10::TensorType::get()), entries);
}

Value* insertView(Graph& g, Value* whole, const PlaceView& view,
                  const std::function<Value*(Value*)>& operand) {
  switch (view.kind) {
  case PlaceView::Kind::Slice:
    return g.insert(aten::slice, {whole, operand(view.dim), operand(view.start),
                                  operand(view.end), operand(view.step)});
  case PlaceView::Kind::Select:
    return g.insert(aten::select,
                    {whole, operand(view.dim), operand(view.start)});
  case PlaceView::Kind::Index:
    break;
  }
  return g.insert(aten::index,
                  {whole, indexList(g, view.dim, operand(view.indices))});
}

void lower(Node* node) {
  Graph& g = *node->owningGraph();
  WithInsertPoint guard(node);
  const Written w = writtenOf(node);
  const auto same = [](Value* v) { return v; };
  Value* whole =
      g.insert(aten::empty_strided, {w.sizes, w.strides},
               {NamedValue("dtype", w.dtype), NamedValue("device", w.device)});
  whole->node()->setSourceRange(node->sourceRange());
  if (!isNone(w.fill))
    g.insert(Symbol::fromQualString("aten::fill_"), {whole, w.fill});
  for (const WrittenPiece& piece : w.pieces) {
    Value* place = whole;
    bool done = false;
    for (const PlaceView& view : piece.place) {
      done = view.kind == PlaceView::Kind::Index;
      if (done)
        g.insert(aten::index_put_,
                 {place, indexList(g, view.dim, view.indices), piece.value});
      else
        place = insertView(g, place, view, same);
    }
    if (!done)
      g.insert(aten::copy_, {place, piece.value});
  }
  replaceValue(node->output(), whole);
  const std::vector<Node*> lists = {
      node->input(0)->node(), node->input(1)->node(), node->input(2)->node()};
  node->destroy();
  for (Node* n : lists)
    if (!n->hasUses())
      n->destroy();
}

} // namespace

c10::Symbol writtenSymbol() {
  static const auto s = c10::Symbol::fromQualString("inv_opt::written");
  return s;
}

Written writtenOf(Node* node) {
  Written w;
  const auto pieces = node->input(0)->node()->inputs();
  const auto indices = node->input(1)->node()->inputs();
  const auto places = node->input(2)->node()->inputs();
  size_t at = 0;
  for (Value* value : pieces) {
    WrittenPiece piece;
    piece.value = value;
    for (int64_t views = constantInt(places[at++]).value(); views > 0;
         --views) {
      PlaceView view;
      view.dim = places[at];
      view.start = places[at + 1];
      view.end = places[at + 2];
      view.step = places[at + 3];
      at += 4;
      const int64_t step = constantInt(view.step).value_or(1);
      view.kind = step > 0    ? PlaceView::Kind::Slice
                  : step == 0 ? PlaceView::Kind::Select
                              : PlaceView::Kind::Index;
      if (view.kind == PlaceView::Kind::Index)
        view.indices = indices[size_t(constantInt(view.start).value())];
      piece.place.push_back(view);
    }
    w.pieces.push_back(std::move(piece));
  }
  w.sizes = node->input(3);
  w.strides = node->input(4);
  w.dtype = node->input(5);
  w.device = node->input(6);
  w.fill = node->input(7);
  return w;
}

Node* insertWritten(Graph& g, const Written& w) {
  std::vector<Value*> pieces, indices, places;
  const auto number = [&](int64_t n) { return g.insertConstant(n); };
  const auto bound = [&](Value* v, int64_t none) {
    return isNone(v) ? number(none) : v;
  };
  for (const WrittenPiece& piece : w.pieces) {
    pieces.push_back(piece.value);
    places.push_back(number(int64_t(piece.place.size())));
    for (const PlaceView& view : piece.place) {
      places.push_back(view.dim);
      switch (view.kind) {
      case PlaceView::Kind::Slice:
        places.insert(places.end(), {bound(view.start, 0),
                                     bound(view.end, kOpenEnd), view.step});
        break;
      case PlaceView::Kind::Select:
        places.insert(places.end(), {view.start, number(0), number(0)});
        break;
      case PlaceView::Kind::Index:
        places.insert(places.end(),
                      {number(int64_t(indices.size())), number(0), number(-1)});
        indices.push_back(view.indices);
        break;
      }
    }
  }
  Node* node =
      g.create(writtenSymbol(), {list(g, c10::TensorType::get(), pieces),
                                 list(g, c10::TensorType::get(), indices),
                                 list(g, c10::IntType::get(), places), w.sizes,
                                 w.strides, w.dtype, w.device, w.fill});
  return g.insertNode(node);
}

Value* insertPlace(Graph& g, Value* whole, const std::vector<PlaceView>& place,
                   const std::function<Value*(Value*)>& operand) {
  for (const PlaceView& view : place)
    whole = insertView(g, whole, view, operand);
  return whole;
}

bool lowerWritten(Block* block) {
  std::vector<Node*> found;
  for (Node* node : allNodes(block))
    if (node->kind() == writtenSymbol())
      found.push_back(node);
  for (Node* node : found)
    lower(node);
  return !found.empty();
}

} // namespace inv::opt
