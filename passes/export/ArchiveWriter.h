// Writing a rewritten TorchScript archive.
#pragma once

#include "passes/import/Import.h"

#include <string>
#include <vector>

namespace inv::opt {

/// Installs every changed graph as the module's method. Only the root module's
/// class changes; signatures (names and defaults of arguments) stay.
void installMethods(Model& model);

/// The archive member abi::kArchiveMember, as JSON text.
std::string describe(const Input& input, const Model& model,
                     const std::vector<std::string>& pipeline);

/// Writes the model to `path` in one step (AtomicFile): an archive with the
/// input's extra files and abi::kArchiveMember, or, where no pass changed
/// anything, the input's very bytes. Throws Error.
void writeArchive(const std::string& path, const Input& input, Model& model,
                  const std::vector<std::string>& pipeline);

} // namespace inv::opt
