#include "passes/rules/WeightFactors.h"

#include "passes/rules/Match.h"
#include "passes/rules/WeightSolve.h"

#include <ATen/ops/eq.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tril.h>
#include <ATen/ops/triu.h>
#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <string>
#include <unordered_set>

namespace inv::opt {

using namespace torch::jit;

namespace {

using Shape = MatrixFactor::Shape;

std::string nameOfKind(const Node* n) {
  return n->kind().is_aten() ? n->kind().toUnqualString() : "";
}

/// The operand that `v` is the transpose of; null if it is none.
Value* transposeOf(Value* v) {
  Node* n = v->node();
  const std::string name = nameOfKind(n);
  if (name == "t" || name == "numpy_T" || name == "mT")
    return n->input(0);
  if (name != "transpose" || n->inputs().size() != 3)
    return nullptr;
  const auto a = constantInt(n->input(1)), b = constantInt(n->input(2));
  if (!a || !b)
    return nullptr;
  const auto lo = std::min(*a, *b), hi = std::max(*a, *b);
  return (lo == 0 && hi == 1) || (lo == -2 && hi == -1) ? n->input(0) : nullptr;
}

bool isCopy(const Node* n) {
  const std::string name = nameOfKind(n);
  return name == "contiguous" || name == "clone" || name == "type_as" ||
         name == "to" || name == "double" || name == "float";
}

class Matrices {
public:
  explicit Matrices(const RuleContext& context) : context_(context) {}

  std::vector<MatrixFactor> factors(Value* v, bool transposed) {
    Node* n = v->node();
    if (Value* of = transposeOf(v))
      return factors(of, !transposed);
    if (isCopy(n))
      return factors(n->input(0), transposed);
    std::vector<Value*> product;
    const std::string name = nameOfKind(n);
    if (name == "matmul" || name == "mm")
      product = {n->input(0), n->input(1)};
    else if ((name == "linalg_multi_dot" || name == "chain_matmul") &&
             n->input(0)->node()->kind() == prim::ListConstruct)
      product.assign(n->input(0)->node()->inputs().begin(),
                     n->input(0)->node()->inputs().end());
    if (product.empty() || !std::all_of(product.begin(), product.end(),
                                        [&](Value* p) { return isSquare(p); }))
      return {leaf(v, transposed)};
    if (transposed)
      std::reverse(product.begin(), product.end());
    std::vector<MatrixFactor> all;
    for (Value* p : product)
      for (MatrixFactor& f : factors(p, transposed))
        all.push_back(std::move(f));
    return all;
  }

private:
  struct Triangles {
    bool lower = false, upper = false; ///< zero above, below the diagonal
    std::vector<Value*> toCheck;
  };

  bool isSquare(Value* v) const {
    const auto saved = savedValue(v, context_);
    return saved && saved->dim() == 2 && saved->size(0) == saved->size(1);
  }

  MatrixFactor leaf(Value* v, bool transposed) {
    MatrixFactor f;
    f.value = v;
    f.transposed = transposed;
    if (isOrthogonal(v, f.toCheck)) {
      f.shape = Shape::Orthogonal;
      return f;
    }
    Triangles t = triangles(v, kDeepest);
    if (!t.lower && !t.upper)
      return f;
    f.shape = t.lower != transposed ? Shape::Lower : Shape::Upper;
    f.toCheck = std::move(t.toCheck);
    return f;
  }

  /// A - Aᵀ, and multiples of it.
  static bool isAntisymmetric(Value* v) {
    Node* n = v->node();
    const std::string name = nameOfKind(n);
    if (name == "neg" || isCopy(n))
      return isAntisymmetric(n->input(0));
    if ((name == "mul" || name == "div") && n->inputs().size() == 2) {
      if (constantScalar(n->input(1)))
        return isAntisymmetric(n->input(0));
      return name == "mul" && constantScalar(n->input(0)) &&
             isAntisymmetric(n->input(1));
    }
    return name == "sub" &&
           (n->inputs().size() < 3 || constantScalar(n->input(2)) == 1.0) &&
           (transposeOf(n->input(1)) == n->input(0) ||
            transposeOf(n->input(0)) == n->input(1));
  }

  bool isOrthogonal(Value* v, std::vector<Value*>& toCheck) const {
    Node* n = v->node();
    const std::string name = nameOfKind(n);
    if (name == "matrix_exp" || name == "linalg_matrix_exp")
      return isAntisymmetric(n->input(0));
    // Of a square matrix Q is square: the full one, and the reduced.
    if (name == "linalg_qr" || name == "qr")
      return v == n->output(0);
    // Of other scales than geqrf's the product is no reflection.
    if (name == "linalg_householder_product" || name == "orgqr") {
      Node* maker = n->input(0)->node();
      return nameOfKind(maker) == "geqrf" && maker->output(0) == n->input(0) &&
             maker->output(1) == n->input(1);
    }
    // A permutation that was saved.
    const ValueId id = context_.flow.idOf(v);
    if (id < 0 || !context_.flow.value(id).fixed)
      return false;
    const auto saved = savedValue(v, context_);
    if (!saved || !saved->is_floating_point())
      return false;
    const bool is = at::eq(at::matmul(*saved, saved->t()),
                           at::eye(saved->size(0), saved->options()))
                        .all()
                        .item<bool>();
    if (is)
      toCheck.push_back(v);
    return is;
  }

  Triangles triangles(Value* v, int depth) {
    Node* n = v->node();
    const std::string name = nameOfKind(n);
    if (depth == 0)
      return {};
    if (Value* of = transposeOf(v)) {
      Triangles t = triangles(of, depth - 1);
      std::swap(t.lower, t.upper);
      return t;
    }
    if (name == "tril" || name == "triu") {
      const auto diagonal = constantInt(n->input(1));
      Triangles t = triangles(n->input(0), depth - 1);
      if (diagonal && name == "tril" && *diagonal <= 0)
        t.lower = true;
      if (diagonal && name == "triu" && *diagonal >= 0)
        t.upper = true;
      return t;
    }
    if (name == "eye" && n->input(0)->type()->kind() == c10::TypeKind::IntType)
      return {true, true, {}};
    if (name == "diag" || name == "diag_embed") {
      const auto offset = constantInt(n->input(1));
      const bool plain =
          n->inputs().size() == 2 ||
          (constantInt(n->input(2)) == -2 && constantInt(n->input(3)) == -1);
      return {
          plain && offset && *offset <= 0, plain && offset && *offset >= 0, {}};
    }
    if (isCopy(n) || name == "neg" ||
        ((name == "mul" || name == "div") && n->inputs().size() == 2 &&
         constantScalar(n->input(1))))
      return triangles(n->input(0), depth - 1);
    if (name == "add" || name == "sub" || name == "mul")
      return combined(n, name == "mul", depth);
    return saved(v);
  }

  /// A sum is zero where both are, a product where either is.
  Triangles combined(Node* n, bool product, int depth) {
    Triangles a = triangles(n->input(0), depth - 1);
    Triangles b = triangles(n->input(1), depth - 1);
    Triangles both;
    both.lower = product ? a.lower || b.lower : a.lower && b.lower;
    both.upper = product ? a.upper || b.upper : a.upper && b.upper;
    both.toCheck = std::move(a.toCheck);
    both.toCheck.insert(both.toCheck.end(), b.toCheck.begin(), b.toCheck.end());
    return both;
  }

  /// A mask, or an identity matrix, that was saved.
  Triangles saved(Value* v) const {
    const ValueId id = context_.flow.idOf(v);
    if (id < 0 || !context_.flow.value(id).fixed)
      return {};
    const auto value = savedValue(v, context_);
    if (!value || value->dim() != 2)
      return {};
    Triangles t;
    t.lower = value->equal(at::tril(*value));
    t.upper = value->equal(at::triu(*value));
    if (t.lower || t.upper)
      t.toCheck = {v};
    return t;
  }

  static constexpr int kDeepest = 12;
  const RuleContext& context_;
};

Value* exact(Graph& g, Value* v) {
  return g.insert(aten::to, {v, int64_t(at::kDouble)});
}

Value* swapLast(Graph& g, Value* v) {
  return g.insert(aten::transpose, {v, -2, -1});
}

/// x of rows = x fᵀ.
Value* solveOne(Graph& g, Value* rows, const MatrixFactor& f, Value* value) {
  static const Symbol lu = Symbol::fromQualString("aten::linalg_solve");
  static const Symbol triangular =
      Symbol::fromQualString("aten::linalg_solve_triangular");
  value = exact(g, value);
  if (f.shape == Shape::Orthogonal)
    return g.insert(aten::matmul,
                    {rows, f.transposed ? swapLast(g, value) : value});
  Value* m = f.transposed ? value : swapLast(g, value); // fᵀ
  if (f.shape == Shape::General)
    return g.insert(lu, {m, rows}, {NamedValue("left", false)});
  return g.insert(triangular, {m, rows},
                  {NamedValue("upper", f.shape == Shape::Lower),
                   NamedValue("left", false)});
}

} // namespace

std::vector<MatrixFactor> factorsOf(Value* weight, bool transposed,
                                    const RuleContext& context) {
  std::vector<MatrixFactor> all = Matrices(context).factors(weight, transposed);
  const bool isKnown =
      std::all_of(all.begin(), all.end(), [](const MatrixFactor& f) {
        return f.shape != Shape::General;
      });
  return isKnown ? all : std::vector<MatrixFactor>{};
}

Value* solveFactors(Graph& g, Value* y,
                    const std::vector<MatrixFactor>& factors,
                    const std::function<Value*(Value*)>& operand) {
  // All leading dimensions are one batch.
  Value* minusOne = g.insertConstant(-1);
  Value* flat =
      g.insertNode(g.createList(c10::IntType::get(),
                                {minusOne, g.insert(aten::size, {y, -1})}))
          ->output();
  Value* rows = exact(g, g.insert(aten::reshape, {y, flat}));
  for (const MatrixFactor& f : factors)
    rows = solveOne(g, rows, f, operand(f.value));
  return g.insert(aten::reshape, {g.insert(aten::type_as, {rows, y}),
                                  g.insert(aten::size, {y})});
}

Value* checkFactors(Graph& g, const std::vector<MatrixFactor>& factors,
                    const std::function<Value*(Value*)>& operand) {
  Value* all = nullptr;
  const auto require = [&](Value* condition) {
    condition = g.insert(aten::all, {condition});
    all = all ? g.insert(aten::logical_and, {all, condition}) : condition;
  };
  for (const MatrixFactor& f : factors)
    for (Value* v : f.toCheck) {
      Value* saved = operand(v);
      if (f.shape == Shape::Orthogonal) {
        // Of zeros and ones: exact.
        Value* size = g.insert(aten::size, {saved, 0});
        Value* eye = g.insert(
            aten::type_as,
            {g.insert(Symbol::fromQualString("aten::eye"), {size},
                      {NamedValue("device", g.insert(prim::device, {saved}))}),
             saved});
        require(g.insert(
            aten::eq,
            {g.insert(aten::matmul, {saved, swapLast(g, saved)}), eye}));
        continue;
      }
      const bool lower = (f.shape == Shape::Lower) != f.transposed;
      Value* part =
          g.insert(Symbol::fromQualString(lower ? "aten::tril" : "aten::triu"),
                   {saved, 0});
      require(g.insert(aten::eq, {part, saved}));
    }
  return all;
}

} // namespace inv::opt
