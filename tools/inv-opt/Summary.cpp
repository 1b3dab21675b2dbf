#include "tools/inv-opt/Summary.h"

#include "passes/support/StringUtil.h"
#include "passes/support/Symbols.h"

#include <algorithm>
#include <array>
#include <ostream>

#include <fmt/format.h>

namespace inv::opt {
namespace {

struct Counts {
  int64_t coupling = 0, bijection = 0, checkpoint = 0;
};

void count(const torch::jit::Block& block, Counts& counts) {
  for (const auto* node : block.nodes()) {
    counts.coupling += node->kind() == sym::coupling();
    counts.bijection += node->kind() == sym::bijection();
    counts.checkpoint += node->kind() == sym::checkpoint();
    for (const auto* inner : node->blocks())
      count(*inner, counts);
  }
}

Counts countsOf(const Method& method) {
  Counts counts;
  count(*method.graph->block(), counts);
  return counts;
}

/// The saved bytes of all steps; "unknown" where a step's are.
std::string savedText(const Method& method) {
  int64_t bytes = 0;
  for (const auto& step : method.steps) {
    if (step.bytesDropped < 0)
      return "unknown";
    bytes += step.bytesDropped;
  }
  return humanBytes(bytes);
}

using Row = std::array<std::string, 7>;

void printTable(std::ostream& out, const std::vector<Row>& rows) {
  std::array<size_t, 7> widths{};
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i)
      widths[i] = std::max(widths[i], row[i].size());
  for (const auto& row : rows) {
    std::string line = fmt::format("{:<{}}", row[0], widths[0]);
    for (size_t i = 1; i < row.size(); ++i)
      line += fmt::format("  {:>{}}", row[i], widths[i]);
    out << line << "\n";
  }
}

} // namespace

int64_t countSteps(const Method& method) {
  Counts counts = countsOf(method);
  return counts.coupling + counts.bijection + counts.checkpoint;
}

void printSummary(std::ostream& out, const std::vector<Model>& models,
                  const Remarks& remarks) {
  std::vector<Row> rows = {{"method", "coupling", "bijection", "checkpoint",
                            "values dropped", "saved", "missed"}};
  for (const auto& model : models)
    for (const auto& method : model.methods) {
      Counts counts = countsOf(method);
      int64_t values = 0;
      for (const auto& step : method.steps)
        values += step.valuesDropped;
      auto missed = std::count_if(
          remarks.all().begin(), remarks.all().end(), [&](const Remark& r) {
            return r.kind == RemarkKind::Missed && r.method == method.name;
          });
      rows.push_back({method.name, std::to_string(counts.coupling),
                      std::to_string(counts.bijection),
                      std::to_string(counts.checkpoint), std::to_string(values),
                      savedText(method), std::to_string(missed)});
    }
  printTable(out, rows);
}

} // namespace inv::opt
