#include "passes/export/AccountingJson.h"

#include "passes/support/Version.h"

#include <nlohmann/json.hpp>

namespace inv::opt {

namespace {

using Json = nlohmann::ordered_json;

Json jsonOf(const KeptRow& row) {
  return {{"reason", reasonId(row.reason)},
          {"message", reasonSentence(row.reason)},
          {"suggestion", reasonSuggestion(row.reason)},
          {"amount", row.amount},
          {"storages", row.storages},
          {"by_step", row.byStep},
          {"callers", row.callers},
          {"module", row.module},
          {"source", row.source},
          {"operator", row.op}};
}

Json jsonOf(const BlockRow& row) {
  Json reasons = Json::array();
  for (Reason reason : row.reasons)
    reasons.push_back(reasonId(reason));
  return {{"module", row.module}, {"rewritten", row.rewritten},
          {"steps", row.steps},   {"before", row.before},
          {"after", row.after},   {"reasons", std::move(reasons)}};
}

Json jsonOf(const std::optional<Peak>& peak) {
  if (!peak)
    return nullptr;
  return {{"bytes", peak->bytes},
          {"phase", peak->inBackward ? "backward" : "forward"},
          {"module", peak->module},
          {"source", peak->source},
          {"operator", peak->op}};
}

template <typename T> Json listOf(const std::vector<T>& rows) {
  Json list = Json::array();
  for (const T& row : rows)
    list.push_back(jsonOf(row));
  return list;
}

} // namespace

std::string accountingJson(const std::string& input,
                           const std::vector<Accounting>& methods) {
  Json list = Json::array();
  for (const Accounting& a : methods)
    list.push_back({{"method", a.method},
                    {"unit", a.inBytes ? "bytes" : "storages"},
                    {"steps", a.steps},
                    {"before", a.before},
                    {"dropped", a.dropped},
                    {"streams", a.streams},
                    {"after", a.after},
                    {"kept", listOf(a.kept)},
                    {"blocks", listOf(a.blocks)},
                    {"peak", jsonOf(a.peak)},
                    {"peak_as_written", jsonOf(a.plainPeak)},
                    {"not_counted", a.silent}});
  Json json = {{"format", 1},
               {"tool", {{"name", "inv-opt"}, {"version", kToolVersion}}},
               {"input", input},
               {"methods", std::move(list)}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

} // namespace inv::opt
