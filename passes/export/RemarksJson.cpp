#include "passes/export/RemarksJson.h"

#include "passes/support/Version.h"

#include <nlohmann/json.hpp>

namespace inv::opt {

std::string remarksJson(const std::string& input, const Remarks& remarks) {
  using Json = nlohmann::ordered_json;
  constexpr const char* kKinds[] = {"passed", "missed", "analysis"};
  Json list = Json::array();
  for (const auto& remark : remarks.all())
    list.push_back({{"kind", kKinds[static_cast<size_t>(remark.kind)]},
                    {"pass", remark.pass},
                    {"method", remark.method},
                    {"module", remark.module},
                    {"source", remark.source},
                    {"node", remark.node},
                    {"reason", remark.reason},
                    {"message", remark.message},
                    {"suggestion", remark.suggestion}});
  Json json = {{"format", 1},
               {"tool", {{"name", "inv-opt"}, {"version", kToolVersion}}},
               {"input", input},
               {"remarks", std::move(list)}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

} // namespace inv::opt
