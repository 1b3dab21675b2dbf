// The accounting for people: rows that are the same in neighbouring blocks of a
// stack are one row, places that keep for the same reason stand together.
#include "passes/analysis/Accounting.h"

#include "passes/support/StringUtil.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <ostream>

namespace inv::opt {

namespace {

using Cells = std::vector<std::string>;

/// The first column and the last are flush left.
void printColumns(std::ostream& out, const std::vector<Cells>& rows) {
  std::vector<size_t> widths(rows.front().size());
  for (const Cells& row : rows)
    for (size_t i = 0; i < row.size(); ++i)
      widths[i] = std::max(widths[i], row[i].size());
  for (const Cells& row : rows) {
    std::string line = fmt::format("{:<{}}", row[0], widths[0]);
    for (size_t i = 1; i + 1 < row.size(); ++i)
      line += fmt::format("  {:>{}}", row[i], widths[i]);
    line += "  " + row.back();
    out << line.substr(0, line.find_last_not_of(' ') + 1) << "\n";
  }
}

/// "blocks.12.f" as "blocks.", 12, ".f"; no number: the whole, -1.
struct Numbered {
  std::string before, after;
  int64_t number = -1;
  /// That of the last component that is a number.
  explicit Numbered(const std::string& path) : before(path) {
    size_t end = path.size();
    while (end != std::string::npos && end > 0) {
      const size_t dot = path.rfind('.', end - 1);
      const size_t start = dot == std::string::npos ? 0 : dot + 1;
      const std::string part = path.substr(start, end - start);
      if (!part.empty() && part.size() < 10 &&
          std::all_of(part.begin(), part.end(),
                      [](char c) { return c >= '0' && c <= '9'; })) {
        before = path.substr(0, start);
        after = path.substr(end);
        number = std::stoll(part);
        return;
      }
      end = dot;
    }
  }
  bool isNext(const Numbered& other) const {
    return number >= 0 && other.number == number + 1 &&
           other.before == before && other.after == after;
  }
};

bool alike(const BlockRow& a, const BlockRow& b) {
  return a.steps == b.steps && a.before == b.before && a.after == b.after &&
         a.rewritten == b.rewritten && a.reasons == b.reasons;
}

std::string nameOf(const std::vector<BlockRow>& blocks, size_t first,
                   size_t last) {
  const std::string& module = blocks[first].module;
  if (module.empty())
    return "(the method itself)";
  if (first == last)
    return module;
  const Numbered n(module);
  return fmt::format("{}{}..{}{}", n.before, n.number,
                     Numbered(blocks[last].module).number, n.after);
}

void printBlocks(std::ostream& out, const Accounting& a) {
  const char* unit = a.inBytes ? "bytes" : "values";
  std::vector<Cells> rows = {{"block", "rewritten", "steps",
                              fmt::format("{} before", unit), "after",
                              "why it keeps them"}};
  for (size_t i = 0; i < a.blocks.size(); ++i) {
    size_t last = i;
    while (last + 1 < a.blocks.size() &&
           alike(a.blocks[last], a.blocks[last + 1]) &&
           Numbered(a.blocks[last].module)
               .isNext(Numbered(a.blocks[last + 1].module)))
      ++last;
    const BlockRow& row = a.blocks[i];
    std::string why;
    for (Reason reason : row.reasons)
      why += (why.empty() ? "" : ", ") + std::string(reasonId(reason));
    const char* each = last > i ? " each" : "";
    rows.push_back({nameOf(a.blocks, i, last), row.rewritten ? "yes" : "no",
                    std::to_string(row.steps),
                    withSeparators(row.before) + each,
                    withSeparators(row.after) + each, why});
    i = last;
  }
  printColumns(out, rows);
}

void printSums(std::ostream& out, const Accounting& a) {
  int64_t kept = 0, newly = 0;
  for (const KeptRow& row : a.kept)
    (row.byStep ? newly : kept) += row.amount;
  std::vector<Cells> rows;
  rows.push_back(
      {"kept for backward as written", withSeparators(a.before), ""});
  if (a.dropped != 0 || a.streams != 0) {
    rows.push_back({"  dropped by steps", withSeparators(a.dropped), ""});
    if (a.streams != 0)
      rows.push_back({"  dropped since streams are not copied",
                      withSeparators(a.streams), ""});
    rows.push_back({"  kept", withSeparators(kept), ""});
  }
  if (newly != 0)
    rows.push_back({"held by steps beside", withSeparators(newly), ""});
  rows.push_back({"kept for backward after rewriting", withSeparators(a.after),
                  a.inBytes ? "bytes" : "values"});
  printColumns(out, rows);
}

/// One reason's places; those of several blocks of a stack that share a line of
/// source are one.
void printPlaces(std::ostream& out, const std::vector<const KeptRow*>& rows) {
  struct Place {
    int64_t amount = 0;
    std::vector<std::string> modules;
  };
  std::map<std::string, Place> places;
  for (const KeptRow* row : rows) {
    std::string where =
        row->source.empty() ? row->op : row->source + " " + row->op;
    Place& place = places[where];
    place.amount += row->amount;
    if (!row->module.empty())
      place.modules.push_back(row->module);
  }
  std::vector<std::pair<std::string, Place>> sorted(places.begin(),
                                                    places.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) {
                     return a.second.amount > b.second.amount;
                   });
  constexpr size_t kMostPlaces = 8;
  for (size_t i = 0; i < std::min(sorted.size(), kMostPlaces); ++i) {
    const auto& [where, place] = sorted[i];
    std::string in;
    if (!place.modules.empty())
      in = " in " + place.modules.front();
    if (place.modules.size() > 1)
      in += fmt::format(" and {} more", place.modules.size() - 1);
    out << fmt::format("      {} {}{}\n", withSeparators(place.amount), where,
                       in);
  }
  if (sorted.size() > kMostPlaces)
    out << fmt::format("      and {} more places\n",
                       sorted.size() - kMostPlaces);
}

void printReasons(std::ostream& out, const Accounting& a) {
  std::map<Reason, std::vector<const KeptRow*>> byReason;
  std::map<Reason, int64_t> amounts;
  for (const KeptRow& row : a.kept) {
    byReason[row.reason].push_back(&row);
    amounts[row.reason] += row.amount;
  }
  std::vector<std::pair<int64_t, Reason>> order;
  order.reserve(amounts.size());
  for (const auto& [reason, amount] : amounts)
    order.emplace_back(-amount, reason);
  std::sort(order.begin(), order.end());
  if (!order.empty())
    out << "why:\n";
  for (const auto& [amount, reason] : order) {
    out << fmt::format("  {} {} [{}]\n", withSeparators(-amount),
                       reasonSentence(reason), reasonId(reason));
    printPlaces(out, byReason[reason]);
    out << fmt::format("      try: {}\n", reasonSuggestion(reason));
  }
}

std::string describe(const Peak& peak) {
  std::string where = peak.module.empty() ? "the method itself" : peak.module;
  return fmt::format("{} bytes, in {} of {} ({}{})", withSeparators(peak.bytes),
                     peak.inBackward ? "backward" : "forward", where,
                     peak.source.empty() ? "" : peak.source + " ", peak.op);
}

} // namespace

void print(std::ostream& out, const Accounting& a) {
  out << fmt::format("method {}: {} {}\n", a.method, a.steps,
                     a.steps == 1 ? "step" : "steps");
  printBlocks(out, a);
  printSums(out, a);
  printReasons(out, a);
  for (const std::string& op : a.silent)
    out << fmt::format("not counted: {} does not tell what it keeps\n", op);
  if (a.peak)
    out << fmt::format("peak of a training step, estimated: {}\n  as written: "
                       "{}\n",
                       describe(*a.peak), describe(*a.plainPeak));
}

} // namespace inv::opt
