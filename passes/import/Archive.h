// TorchScript archives: integrity check and loading.
#pragma once

#include "passes/import/Import.h"

#include <string>

namespace inv::opt {

/// Loads input.path (or input.bytes, for standard input) into input.models (one
/// model without methods) and input.extraFiles. Every entry's checksum is
/// verified first: LibTorch's reader does not, so a damaged weight would pass
/// unseen.
void loadArchive(Input& input);

} // namespace inv::opt
