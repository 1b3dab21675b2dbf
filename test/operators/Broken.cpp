// Needs a symbol that nobody has: the loader refuses it.
extern "C" int inv_test_symbol_that_is_nowhere();

extern "C" __attribute__((visibility("default"))) int invTestBroken() {
  return inv_test_symbol_that_is_nowhere();
}
