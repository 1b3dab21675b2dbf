#include "passes/analysis/Saved.h"

#include "passes/support/Holds.h"
#include "passes/support/Written.h"

#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <string>
#include <unordered_map>

namespace inv::opt {

using namespace torch::jit;

namespace {

/// One word of a row of Saved.def.
struct Word {
  char what = '-';        ///< '0' to '9', 'o', 'h', 's', 'x'
  int output = -1;        ///< of 'o': that one alone
  std::vector<size_t> of; ///< only where one of these inputs asks
};
using Row = std::vector<Word>;

Row parseRow(const std::string& text) {
  Row row;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == ' ' || text[i] == '-')
      continue;
    Word word;
    word.what = text[i];
    if (word.what == 'o' && i + 1 < text.size() && std::isdigit(text[i + 1]))
      word.output = text[++i] - '0';
    if (i + 1 < text.size() && text[i + 1] == ':')
      for (++i; i + 1 < text.size() && std::isdigit(text[i + 1]); ++i)
        word.of.push_back(size_t(text[i + 1] - '0'));
    row.push_back(std::move(word));
  }
  return row;
}

const std::unordered_map<std::string, Row>& table() {
  static const std::unordered_map<std::string, Row> rows = {
#define SAVED(name, row) {name, parseRow(row)},
#include "passes/analysis/Saved.def"
#undef SAVED
  };
  return rows;
}

const Row* findRow(const std::string& name, const std::string& overload) {
  auto row = table().find(name + "." + overload);
  if (row == table().end())
    row = table().find(name);
  if (row != table().end())
    return &row->second;
  if (name.size() > 1 && name.back() == '_' && name[name.size() - 2] != '_')
    return findRow(name.substr(0, name.size() - 1), overload);
  return nullptr;
}

const Row* rowOf(const Node* n) {
  if (!n->kind().is_aten())
    return nullptr;
  const FunctionSchema* schema = n->maybeSchema();
  return findRow(n->kind().toUnqualString(),
                 schema ? schema->overload_name() : "");
}

bool isZeroOrFalse(const Value* v) {
  const auto constant = toIValue(v);
  return constant && ((constant->isBool() && !constant->toBool()) ||
                      (constant->isDouble() && constant->toDouble() == 0.0) ||
                      (constant->isInt() && constant->toInt() == 0));
}

// Operators whose flags decide.

/// dropout(x, p, train): the mask, unless it is the identity.
Saved savedByDropout(Node* n, const AsksGradient&) {
  Saved saved;
  saved.own = !isZeroOrFalse(n->input(1)) && !isZeroOrFalse(n->input(2));
  return saved;
}

/// Drops channels: one number each.
Saved savedByFeatureDropout(Node* n, const AsksGradient& asks) {
  Saved saved = savedByDropout(n, asks);
  std::swap(saved.own, saved.ownSmall);
  return saved;
}

/// Each factor for the gradients of the others.
Saved savedByEinsum(Node* n, const AsksGradient& asks) {
  Saved saved;
  Value* list = n->input(1);
  if (list->node()->kind() != prim::ListConstruct) {
    saved.values = {list};
    return saved;
  }
  for (Value* factor : list->node()->inputs())
    for (const Value* other : list->node()->inputs())
      if (other != factor && asks(other)) {
        saved.values.push_back(factor);
        break;
      }
  return saved;
}

/// The fused kernel keeps what goes in and out. With dropout, or a mask that
/// asks for a gradient, the formula is evaluated as written: scaled copies of
/// query and key, and the matrix of scores.
Saved savedByAttention(Node* n, const AsksGradient& asks) {
  Saved saved;
  saved.values = {n->input(2)};
  if (isZeroOrFalse(n->input(4)) && !asks(n->input(3))) {
    saved.values = {n->input(0), n->input(1), n->input(2), n->input(3),
                    n->output()};
    saved.ownSmall = true;
  } else {
    saved.own = true;
  }
  return saved;
}

bool isOne(const c10::IValue& v) { return v.isInt() && v.toInt() == 1; }

/// adaptive_avg_pool(x, sizes): to one element it is a mean.
Saved savedByAdaptivePool(Node* n, const AsksGradient&) {
  const Node* sizes = n->input(1)->node();
  bool isMean = false;
  if (const auto list = toIValue(n->input(1)); list && list->isIntList()) {
    const auto numbers = list->toIntVector();
    isMean = std::all_of(numbers.begin(), numbers.end(),
                         [](int64_t size) { return size == 1; });
  } else if (sizes->kind() == prim::ListConstruct) {
    isMean = std::all_of(sizes->inputs().begin(), sizes->inputs().end(),
                         [](const Value* v) {
                           const auto size = toIValue(v);
                           return size && isOne(*size);
                         });
  }
  Saved saved;
  if (!isMean)
    saved.values = {n->input(0)};
  return saved;
}

/// pad(x, sizes, mode, value).
Saved savedByPad(Node* n, const AsksGradient&) {
  const auto mode = toIValue(n->input(2));
  Saved saved;
  if (!mode || !mode->isString() ||
      (mode->toStringRef() != "constant" && mode->toStringRef() != "circular"))
    saved.values = {n->input(0)};
  return saved;
}

using SpecialRow = Saved (*)(Node*, const AsksGradient&);

SpecialRow specialRowOf(const Node* n) {
  static const std::unordered_map<std::string, SpecialRow> rows = {
      {"dropout", savedByDropout},
      {"alpha_dropout", savedByDropout},
      {"feature_dropout", savedByFeatureDropout},
      {"feature_alpha_dropout", savedByFeatureDropout},
      {"einsum", savedByEinsum},
      {"scaled_dot_product_attention", savedByAttention},
      {"adaptive_avg_pool1d", savedByAdaptivePool},
      {"adaptive_avg_pool2d", savedByAdaptivePool},
      {"adaptive_avg_pool3d", savedByAdaptivePool},
      {"pad", savedByPad},
  };
  if (!n->kind().is_aten())
    return nullptr;
  std::string name = n->kind().toUnqualString();
  if (name.back() == '_')
    name.pop_back();
  auto row = rows.find(name);
  return row == rows.end() ? nullptr : row->second;
}

Saved savedByRow(Node* n, const Row& row, const AsksGradient& asks) {
  Saved saved;
  for (const Word& word : row) {
    const bool asked =
        word.of.empty() ||
        std::any_of(word.of.begin(), word.of.end(), [&](size_t i) {
          return i < n->inputs().size() && asks(n->input(i));
        });
    if (!asked)
      continue;
    if (word.what == 'x') {
      saved.differentiable = false;
    } else if (word.what == 'h') {
      saved.own = true;
    } else if (word.what == 's') {
      saved.ownSmall = true;
    } else if (word.what == 'o') {
      for (size_t i = 0; i < n->outputs().size(); ++i)
        if (word.output < 0 || size_t(word.output) == i)
          saved.values.push_back(n->output(i));
    } else if (size_t(word.what - '0') < n->inputs().size()) {
      saved.values.push_back(n->input(size_t(word.what - '0')));
    }
  }
  return saved;
}

} // namespace

Saved savedBy(Node* n, const AsksGradient& asks) {
  static const Symbol ours = Symbol::fromQualString("inv::resplit").ns();
  // resplit, as_piece, written and holds move values; a step keeps what its
  // slots hold, which the analysis sees as readers of its own.
  if (n->kind().ns() == ours || n->kind() == writtenSymbol() ||
      n->kind() == holdsSymbol())
    return {};
  if (n->kind().is_prim() && n->blocks().empty() &&
      n->kind() != prim::CallMethod)
    return {};
  if (SpecialRow special = specialRowOf(n))
    return special(n, asks);
  if (const Row* row = rowOf(n))
    return savedByRow(n, *row, asks);
  Saved saved;
  saved.known = n->kind() == prim::CallMethod || !n->blocks().empty();
  saved.values.assign(n->inputs().begin(), n->inputs().end());
  saved.values.insert(saved.values.end(), n->outputs().begin(),
                      n->outputs().end());
  return saved;
}

} // namespace inv::opt
