// Printed IR that the importer reads back (docs/formats.md).
#pragma once

#include "passes/Model.h"

#include <iosfwd>

namespace inv::opt {

/// Prints the module's declarations, the methods of the classes that its graphs
/// call or run as steps, and the model's methods. Reading the text and printing
/// it again gives the same text. Throws Error for a graph that has no text form
/// (a prim::fork).
void printIr(std::ostream& out, const Model& model);

} // namespace inv::opt
