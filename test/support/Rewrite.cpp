#include "Rewrite.h"

#include <c10/util/Exception.h>

#ifdef INVOPT_TESTS_HAVE_PASSES

#include "passes/Passes.h"
#include "passes/export/ArchiveWriter.h"
#include "passes/import/Import.h"

#include <torch/csrc/jit/serialization/import.h>

#include <cstdlib>
#include <filesystem>
#include <sstream>

namespace inv::test {
namespace {

namespace fs = std::filesystem;

class TemporaryFolder {
public:
  TemporaryFolder() {
    std::string name = fs::temp_directory_path() / "inv-opt-test-XXXXXX";
    TORCH_CHECK(mkdtemp(name.data()) != nullptr, name, " cannot be made");
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string file(const char* name) const { return path_ / name; }

private:
  fs::path path_;
};

std::string textOf(const opt::Remarks& remarks) {
  std::ostringstream text;
  for (const opt::Remark& remark : remarks.all())
    opt::printRemark(text, remark);
  return text.str();
}

} // namespace

bool canRewrite() { return true; }

torch::jit::Module rewritten(const torch::jit::Module& model, int64_t steps,
                             c10::Device device) {
  const TemporaryFolder folder;
  const std::string before = folder.file("model.pt"),
                    after = folder.file("model.inv.pt");
  model.save(before);
  opt::Input input = opt::importInput(before, {});
  opt::Model& compiled = input.models.front();
  opt::PipelineOptions pipeline;
  pipeline.onlyWithSteps = true;
  for (const std::string& name : opt::defaultPipeline())
    pipeline.passes.push_back(opt::findPass(name));
  opt::Remarks remarks;
  opt::runPipeline(compiled, {}, pipeline, remarks);
  const auto formed = std::ssize(compiled.methods.front().steps);
  TORCH_CHECK(formed == steps, formed, " steps were formed, not ", steps, ":\n",
              textOf(remarks));
  opt::writeArchive(after, input, compiled, opt::defaultPipeline());
  return torch::jit::load(after, device);
}

} // namespace inv::test

#else

namespace inv::test {

bool canRewrite() { return false; }

torch::jit::Module rewritten(const torch::jit::Module& /*model*/,
                             int64_t /*steps*/, c10::Device /*device*/) {
  TORCH_CHECK(false, "built without the passes");
}

} // namespace inv::test

#endif
