// Imports many ONNX models in one process, for tests that have hundreds of
// small ones.
//
//   inv-onnx-batch < LIST
//
// A line of LIST is "model.onnx<TAB>archive.pt"; for each there is a line of
// answer: "ok", or "error CODE MESSAGE".
#include "passes/export/ArchiveWriter.h"
#include "passes/import/onnx/ImportOnnx.h"
#include "passes/support/Error.h"
#include "passes/support/StringUtil.h"

#include <exception>
#include <iostream>
#include <string>

namespace {

std::string answer(const std::string& line) {
  using namespace inv::opt;
  size_t tab = line.find('\t');
  if (tab == std::string::npos)
    return "error 2 no tab in this line";
  try {
    ImportOptions options;
    options.onnx = importOnnx;
    Input input = importInput(line.substr(0, tab), options);
    writeArchive(line.substr(tab + 1), input, input.models.front(), {});
    return "ok";
  } catch (const Error& error) {
    return "error " + std::to_string(static_cast<int>(error.code())) + " " +
           error.what();
  } catch (const std::exception& error) {
    std::string text(trim(error.what()));
    return "error 3 " + text.substr(0, text.find('\n'));
  }
}

} // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);)
    std::cout << answer(line) << std::endl;
}
